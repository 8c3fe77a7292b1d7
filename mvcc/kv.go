package mvcc

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// KV is a marshalled mvccpb.KeyValue as it is stored.
type KV []byte

// Fields are the fields of a KV; Key and Value alias it.
type Fields struct {
	Key, Value                        []byte
	CreateRev, ModRev, Version, Lease int64
}

// Field numbers of mvccpb.KeyValue.
const (
	fieldKey = iota + 1
	fieldCreate
	fieldMod
	fieldVersion
	fieldValue
	fieldLease
)

// Parse takes a stored KV apart. Bytes that are none give the fields up to the fault; Check tells.
func (kv KV) Parse() Fields {
	f, _ := kv.parse()
	return f
}

// Check says whether the bytes are a KeyValue.
func (kv KV) Check() error {
	_, err := kv.parse()
	return err
}

func (kv KV) parse() (f Fields, err error) {
	for b := []byte(kv); len(b) > 0; {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return f, fmt.Errorf("mvcc: not a key-value: %w", protowire.ParseError(-1))
		}
		b = b[n:]
		num, typ := protowire.DecodeTag(tag)
		switch typ {
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return f, fmt.Errorf("mvcc: not a key-value: %w", protowire.ParseError(n))
			}
			b = b[n:]
			switch num {
			case fieldKey:
				f.Key = v
			case fieldValue:
				f.Value = v
			}
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return f, fmt.Errorf("mvcc: not a key-value: %w", protowire.ParseError(n))
			}
			b = b[n:]
			switch num {
			case fieldCreate:
				f.CreateRev = int64(v)
			case fieldMod:
				f.ModRev = int64(v)
			case fieldVersion:
				f.Version = int64(v)
			case fieldLease:
				f.Lease = int64(v)
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return f, fmt.Errorf("mvcc: not a key-value: %w", protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	return f, nil
}

// Marshal makes the stored form, byte for byte as protobuf writes it: fields by number, zeros left out.
func (f *Fields) Marshal() KV {
	size := sizeBytes(f.Key) + sizeInt(f.CreateRev) + sizeInt(f.ModRev) + sizeInt(f.Version) + sizeBytes(f.Value) + sizeInt(f.Lease)
	b := make([]byte, 0, size)
	b = appendBytes(b, fieldKey, f.Key)
	b = appendInt(b, fieldCreate, f.CreateRev)
	b = appendInt(b, fieldMod, f.ModRev)
	b = appendInt(b, fieldVersion, f.Version)
	b = appendBytes(b, fieldValue, f.Value)
	return appendInt(b, fieldLease, f.Lease)
}

// sizeBytes and sizeInt are the sizes of fields with one-byte tags.
func sizeBytes(v []byte) int {
	if len(v) == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(len(v))
}

func sizeInt(v int64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(uint64(v))
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

func appendInt(b []byte, num protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v))
}

// str is b as a string for the length of a lookup.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
