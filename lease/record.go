package lease

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Rows is where leases are stored: the lease bucket of a backend. Keys and values belong to the rows once they are passed.
type Rows interface {
	Put(key, value []byte)
	Delete(key []byte)
	ForEach(func(key, value []byte) error) error
}

// Field numbers of a lease record.
const (
	fieldID        = 1
	fieldTTL       = 2
	fieldRemaining = 3
)

type record struct {
	id             ID
	ttl, remaining int64 // seconds
}

func rowKey(id ID) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(id)) }

func (r record) marshal() []byte {
	b := make([]byte, 0, 24)
	for _, f := range [...]struct {
		num   protowire.Number
		value int64
	}{{fieldID, int64(r.id)}, {fieldTTL, r.ttl}, {fieldRemaining, r.remaining}} {
		if f.value != 0 {
			b = protowire.AppendTag(b, f.num, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(f.value))
		}
	}
	return b
}

func unmarshalRecord(b []byte) (r record, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return record{}, fmt.Errorf("not a lease record: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if typ != protowire.VarintType || num > fieldRemaining {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return record{}, fmt.Errorf("not a lease record: %w", protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return record{}, fmt.Errorf("not a lease record: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch num {
		case fieldID:
			r.id = ID(v)
		case fieldTTL:
			r.ttl = int64(v)
		case fieldRemaining:
			r.remaining = int64(v)
		}
	}
	return r, nil
}

// decodeRow reads one row and checks that key and value tell of the same lease.
func decodeRow(key, value []byte) (record, error) {
	if len(key) != 8 {
		return record{}, fmt.Errorf("lease: row %x: the key has %d bytes instead of 8", key, len(key))
	}
	r, err := unmarshalRecord(value)
	if err != nil {
		return record{}, fmt.Errorf("lease: row %x: %w", key, err)
	}
	if id := ID(binary.BigEndian.Uint64(key)); r.id != id || id == NoLease {
		return record{}, fmt.Errorf("lease: row %x holds lease %016x", key, uint64(r.id))
	}
	return r, nil
}
