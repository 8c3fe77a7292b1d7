package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Writer keeps a table of a network namespace.
type Writer struct {
	name  string
	netns int

	mu      sync.Mutex
	written *Table              // nil: nothing is known to be there
	handles map[string][]uint64 // of the rules, by chain, as the kernel named them
	gen     uint32              // the kernel's count of changes when the table was last seen to be right
}

// NewWriter makes the writer of a table. netns is a file descriptor of the namespace, which stays the caller's; 0 is that of
// the calling thread.
func NewWriter(name string, netns int) *Writer { return &Writer{name: name, netns: netns} }

// chunk is how many elements go into one message: its length is a number of 16 bits.
const chunk = 300

// buffer is the size of the socket's buffers, in bytes. A transaction is one write.
const buffer = 32 << 20

func (w *Writer) conn() (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(w.netns), nftables.WithSockOptions(func(c *netlink.Conn) error {
		// Without the right to pass the system's bound, the bound it is: small changes fit.
		return errors.Join(ignore(c.SetWriteBuffer(buffer)), ignore(c.SetReadBuffer(buffer)))
	}))
}

func ignore(error) error { return nil }

// Sync makes the table as wanted.
func (w *Writer) Sync(want *Table) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written != nil {
		b, err := w.batch()
		if err != nil {
			return err
		}
		if err := b.diff(w.written, want); err != nil {
			return err
		}
		if b.empty {
			w.written = want
			return nil
		}
		if err = b.conn.Flush(); err == nil {
			w.wrote(want, b.changed)
			return nil
		}
		w.written = nil // somebody was at it: write all of it
	}
	return w.replace(want)
}

// replace writes the whole table. Packets see the old one or the new one.
func (w *Writer) replace(want *Table) error {
	b, err := w.batch()
	if err != nil {
		return err
	}
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
	b.conn.AddTable(b.table)
	if err := b.diff(NewTable(w.name), want); err != nil {
		return err
	}
	if err := b.conn.Flush(); err != nil {
		w.written = nil
		return fmt.Errorf("nft: table %s: %w", w.name, err)
	}
	w.handles = nil
	w.wrote(want, nil)
	return nil
}

func (w *Writer) wrote(t *Table, changed map[string]bool) {
	w.written, w.gen = t, 0
	for chain := range changed {
		delete(w.handles, chain)
	}
}

// Remove deletes the table.
func (w *Writer) Remove() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.batch()
	if err != nil {
		return err
	}
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
	w.written, w.handles = nil, nil
	if err := b.conn.Flush(); err != nil {
		return fmt.Errorf("nft: delete the table %s: %w", w.name, err)
	}
	return nil
}

// Check repairs the table where it is not what was written, and says whether it had to.
func (w *Writer) Check() (repaired bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written == nil {
		return false, nil
	}
	gen, err := w.generation()
	if err == nil && gen != 0 && gen == w.gen {
		return false, nil
	}
	intact, err := w.intact()
	if err != nil {
		return false, fmt.Errorf("nft: look at the table %s: %w", w.name, err)
	}
	if intact {
		w.gen = gen
		return false, nil
	}
	return true, w.replace(w.written)
}

// intact compares the kernel's table with what was written.
func (w *Writer) intact() (bool, error) {
	b, err := w.batch()
	if err != nil {
		return false, err
	}
	if _, err := b.conn.ListTableOfFamily(w.name, nftables.TableFamilyINet); err != nil {
		return false, nil //nolint:nilerr // it is not there
	}
	chains, err := b.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, err
	}
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != w.name })
	if len(chains) != len(w.written.Chains) {
		return false, nil
	}
	handles := map[string][]uint64{}
	for _, c := range chains {
		want := w.written.Chains[c.Name]
		if want == nil || (want.Base != nil) != (c.Hooknum != nil) {
			return false, nil
		}
		rules, err := b.conn.GetRules(b.table, c)
		if err != nil || len(rules) != len(want.Rules) {
			return false, gone(err)
		}
		for _, r := range rules {
			handles[c.Name] = append(handles[c.Name], r.Handle)
		}
		if seen, ok := w.handles[c.Name]; ok && !slices.Equal(seen, handles[c.Name]) {
			return false, nil
		}
	}
	w.handles = handles
	for name, s := range w.written.Sets {
		elements, err := b.conn.GetSetElements(s.kernel(b.table, name, 1))
		if err != nil || !s.holds(elements) {
			return false, gone(err)
		}
	}
	return true, nil
}

// gone takes the error of an object that was deleted for what it says.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// holds says whether the elements are those of the set.
func (s *Set) holds(elements []nftables.SetElement) bool {
	ids := map[string]int{}
	count := 0
	id := func(e nftables.SetElement) string { return fmt.Sprintf("%x %x %v", e.Key, e.KeyEnd, e.IntervalEnd) }
	for _, e := range s.Elements {
		for _, x := range s.wire(e) {
			ids[id(x)]++
			count++
		}
	}
	for _, e := range elements {
		ids[id(e)]--
		if ids[id(e)] < 0 {
			return false
		}
	}
	return len(elements) == count
}

// generation asks for the kernel's count of changes of this namespace.
func (w *Writer) generation() (uint32, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: w.netns})
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	all, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN), Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, err
	}
	for _, m := range all {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, err
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, nil
}

// batch is a transaction in the making.
type batch struct {
	conn    *nftables.Conn
	table   *nftables.Table
	empty   bool
	changed map[string]bool // chains whose rules changed
	ids     uint32
}

func (w *Writer) batch() (*batch, error) {
	c, err := w.conn()
	if err != nil {
		return nil, fmt.Errorf("nft: %w", err)
	}
	return &batch{conn: c, table: &nftables.Table{Name: w.name, Family: nftables.TableFamilyINet}, empty: true, changed: map[string]bool{}}, nil
}

// diff adds what turns one table into another. Order matters to the kernel: what is referred to comes first and goes last.
func (b *batch) diff(was, want *Table) error {
	for _, name := range slices.Sorted(maps.Keys(want.Sets)) {
		if was.Sets[name] == nil {
			if err := b.conn.AddSet(b.set(want, name), nil); err != nil {
				return fmt.Errorf("nft: set %s: %w", name, err)
			}
			b.empty = false
		} else if was.Sets[name].Type.Key.Name != want.Sets[name].Type.Key.Name || was.Sets[name].Type.Ranges != want.Sets[name].Type.Ranges {
			return fmt.Errorf("nft: set %s changes its type", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Chains)) {
		if was.Chains[name] == nil {
			b.conn.AddChain(b.chain(name, want.Chains[name]))
			b.empty = false
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Chains)) {
		b.rules(name, was.Chains[name], want.Chains[name])
	}
	for _, name := range slices.Sorted(maps.Keys(want.Sets)) {
		old := was.Sets[name]
		if old == nil {
			old = &Set{}
		}
		if err := b.elements(b.set(want, name), old, want.Sets[name]); err != nil {
			return fmt.Errorf("nft: elements of %s: %w", name, err)
		}
	}
	return b.remove(was, want)
}

// remove deletes what is wanted no more: first whatever refers to other things.
func (b *batch) remove(was, want *Table) error {
	var sets, chains []string
	for name, s := range was.Sets {
		if want.Sets[name] == nil {
			sets = append(sets, name)
			if err := b.elements(b.set(was, name), s, &Set{Type: s.Type}); err != nil {
				return fmt.Errorf("nft: elements of %s: %w", name, err)
			}
		}
	}
	for name, c := range was.Chains {
		if want.Chains[name] == nil {
			chains = append(chains, name)
			b.conn.FlushChain(b.chain(name, c))
			b.changed[name] = true
		}
	}
	for _, name := range slices.Sorted(slices.Values(chains)) {
		b.conn.DelChain(b.chain(name, was.Chains[name]))
	}
	for _, name := range slices.Sorted(slices.Values(sets)) {
		b.conn.DelSet(b.set(was, name))
	}
	b.empty = b.empty && len(sets) == 0 && len(chains) == 0
	return nil
}

func (b *batch) set(t *Table, name string) *nftables.Set {
	b.ids++
	return t.Sets[name].kernel(b.table, name, b.ids)
}

func (b *batch) chain(name string, c *Chain) *nftables.Chain {
	k := &nftables.Chain{Name: name, Table: b.table}
	if c.Base != nil {
		k.Type, k.Hooknum, k.Priority = c.Base.Type, c.Base.Hook, &c.Base.Priority
	}
	return k
}

// rules writes all rules of a chain where any changed.
func (b *batch) rules(name string, was, want *Chain) {
	if was != nil && slices.EqualFunc(was.Rules, want.Rules, func(x, y Rule) bool { return x.String() == y.String() }) {
		return
	}
	c := b.chain(name, want)
	if was != nil {
		b.conn.FlushChain(c)
	}
	for _, r := range want.Rules {
		b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: r.exprs()})
	}
	b.changed[name], b.empty = true, false
}

// elements deletes and adds what differs.
func (b *batch) elements(s *nftables.Set, was, want *Set) error {
	var del, add []nftables.SetElement
	for id, e := range was.Elements {
		if x, ok := want.Elements[id]; !ok || !x.same(e) {
			del = append(del, was.wire(Element{Key: e.Key, Last: e.Last})...)
		}
	}
	for id, e := range want.Elements {
		if x, ok := was.Elements[id]; !ok || !x.same(e) {
			add = append(add, want.wire(e)...)
		}
	}
	b.empty = b.empty && len(del) == 0 && len(add) == 0
	for part := range slices.Chunk(del, chunk) {
		if err := b.conn.SetDeleteElements(s, part); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(add, chunk) {
		if err := b.conn.SetAddElements(s, part); err != nil {
			return err
		}
	}
	return nil
}
