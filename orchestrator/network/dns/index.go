package dns

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"
)

// index maps packed names to packed answers.
type index struct {
	apex string
	ttl  uint32

	mu    sync.RWMutex
	names map[string]*node
	owned map[string][]record // by who made them (a service), ordered by name
	// serial counts changes.
	serial atomic.Uint32
}

// node is a name. It exists as long as somebody owns records of it, or a name below it exists.
type node struct {
	parts []part
	below int
	sets  map[uint16]*set
}

// part are the records of one owner.
type part struct {
	owner   string
	records []record
}

// set is the answer to one type of question.
//
// packed holds the records, whose names are pointers to the question, and ends says where each of them ends. extra holds the
// records of the additional section.
type set struct {
	packed []byte
	ends   []int
	extra  []byte
	extras int
	target string // of a CNAME, packed
}

func newIndex(apex string, ttl uint32) *index {
	return &index{apex: apex, ttl: ttl, names: map[string]*node{}, owned: map[string][]record{}}
}

// find looks a name up. What is returned is not to be changed.
func (x *index) find(name []byte) *node {
	x.mu.RLock()
	n := x.names[string(name)]
	x.mu.RUnlock()
	return n
}

// set makes records those of an owner, and drops what it had before. It costs what changes.
func (x *index) set(owner string, records []record) {
	records = slices.Clone(records)
	slices.SortStableFunc(records, func(a, b record) int { return strings.Compare(a.name, b.name) })
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.owned[owner]
	if len(records) == 0 {
		delete(x.owned, owner)
	} else {
		x.owned[owner] = records
	}
	changed := false
	for len(old) > 0 || len(records) > 0 {
		var name string
		switch {
		case len(old) == 0 || len(records) > 0 && records[0].name < old[0].name:
			name = records[0].name
		default:
			name = old[0].name
		}
		was, is := named(old, name), named(records, name)
		old, records = old[len(was):], records[len(is):]
		if !slices.EqualFunc(was, is, sameRecord) {
			x.replace(name, owner, is)
			changed = true
		}
	}
	if changed {
		x.serial.Add(1)
	}
}

func sameRecord(a, b record) bool {
	return a.name == b.name && a.typ == b.typ && a.data == b.data && slices.Equal(a.glue, b.glue)
}

// named is what is at the beginning of records and has a name.
func named(records []record, name string) []record {
	n := 0
	for n < len(records) && records[n].name == name {
		n++
	}
	return records[:n:n]
}

// replace makes records an owner's part of a name. A node that readers may hold is never changed: it gets a successor.
func (x *index) replace(name, owner string, records []record) {
	next, old := &node{}, x.names[name]
	if old != nil {
		next.below = old.below
		next.parts = slices.DeleteFunc(slices.Clone(old.parts), func(p part) bool { return p.owner == owner })
	}
	if len(records) > 0 {
		next.parts = append(next.parts, part{owner: owner, records: records})
		slices.SortFunc(next.parts, func(a, b part) int { return strings.Compare(a.owner, b.owner) })
	}
	next.sets = x.pack(name, next.parts)
	if len(next.parts) == 0 && next.below == 0 {
		delete(x.names, name)
	} else {
		x.names[name] = next
	}
	switch is, was := len(next.parts) > 0, old != nil && len(old.parts) > 0; {
	case is && !was:
		x.count(name, 1)
	case was && !is:
		x.count(name, -1)
	}
}

// count tells the names above one, up to the zone's, that it came or went.
func (x *index) count(name string, by int) {
	if !strings.HasSuffix(name, x.apex) {
		return // a reverse name: the space between is not ours
	}
	for name = parent(name); len(name) >= len(x.apex); name = parent(name) {
		next := node{}
		if old := x.names[name]; old != nil {
			next = *old
		}
		next.below += by
		if next.below == 0 && len(next.parts) == 0 {
			delete(x.names, name)
			continue
		}
		x.names[name] = &next
	}
}

// pack makes the answers of a name.
func (x *index) pack(name string, parts []part) map[uint16]*set {
	var sets map[uint16]*set
	for _, p := range parts {
		for _, r := range p.records {
			if r.typ == typeNone {
				continue
			}
			if sets == nil {
				sets = map[uint16]*set{}
			}
			s := sets[r.typ]
			if s == nil {
				s = &set{}
				sets[r.typ] = s
			}
			x.add(s, len(name), r)
		}
	}
	return sets
}

// questionName is a pointer to the name of the question.
var questionName = []byte{0xC0, headerLen}

// add packs a record into a set of a name that has nameLen bytes. What no message could hold is left out.
func (x *index) add(s *set, nameLen int, r record) {
	begin := headerLen + nameLen + 4
	if begin+len(s.packed)+ownerLen+fixedLen+len(r.data) > maxMsg-optLen {
		return
	}
	target := begin + len(s.packed) + ownerLen + fixedLen + 6 // where the name is in the data of an SRV record
	s.packed = packRecord(s.packed, questionName, r.typ, x.ttl, r.data)
	s.ends = append(s.ends, len(s.packed))
	switch r.typ {
	case dns.TypeCNAME:
		s.target = r.data
	case dns.TypeSRV:
		owner := []byte(r.data[6:])
		if r.data[6:] == "" {
			return
		}
		if target < 1<<14 {
			owner = []byte{0xC0 | byte(target>>8), byte(target)}
		}
		for _, a := range r.glue {
			g := address("", a)
			s.extra = packRecord(s.extra, owner, g.typ, x.ttl, g.data)
			s.extras++
		}
	}
}

// packRecord appends a record.
func packRecord(b, owner []byte, typ uint16, ttl uint32, data string) []byte {
	b = append(b, owner...)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}
