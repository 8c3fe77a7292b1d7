package client

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// Cmp is one comparison of a transaction. Make one from Version, CreateRevision, ModRevision, LeaseOf or Value.
type Cmp struct{ cmp *pb.Compare }

// CompareResult is how a comparison's two sides must relate.
type CompareResult = pb.Compare_CompareResult

// The values of CompareResult.
const (
	Equal    = pb.Compare_EQUAL
	NotEqual = pb.Compare_NOT_EQUAL
	Greater  = pb.Compare_GREATER
	Less     = pb.Compare_LESS
)

func appendCmps(dst []*pb.Compare, cmps []Cmp) []*pb.Compare {
	for _, c := range cmps {
		dst = append(dst, c.cmp)
	}
	return dst
}

// NumTarget is a number of a key to compare: its version, a revision, or its lease. A key that does not exist has
// version and revisions 0.
type NumTarget struct {
	key, end []byte
	target   pb.Compare_CompareTarget
}

// Version is the number of puts since the key was created.
func Version(key string) NumTarget { return NumTarget{key: bytesOf(key), target: pb.Compare_VERSION} }

// CreateRevision is the revision at which the key was created; 0 means that it does not exist.
func CreateRevision(key string) NumTarget {
	return NumTarget{key: bytesOf(key), target: pb.Compare_CREATE}
}

// ModRevision is the revision of the key's last put.
func ModRevision(key string) NumTarget {
	return NumTarget{key: bytesOf(key), target: pb.Compare_MOD}
}

// LeaseOf is the key's lease, 0 if it has none.
func LeaseOf(key string) NumTarget { return NumTarget{key: bytesOf(key), target: pb.Compare_LEASE} }

// Prefix compares all keys that begin with the key: each must hold.
func (t NumTarget) Prefix() NumTarget { t.key, t.end = prefixRange(t.key); return t }

// Range compares all keys from the key up to end: each must hold.
func (t NumTarget) Range(end string) NumTarget { t.end = []byte(end); return t }

// Is compares with v.
func (t NumTarget) Is(r CompareResult, v int64) Cmp {
	c := &pb.Compare{Result: r, Target: t.target, Key: t.key, RangeEnd: t.end}
	switch t.target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: v}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: v}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: v}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: v}
	}
	return Cmp{c}
}

// Equals holds if the number is v.
func (t NumTarget) Equals(v int64) Cmp { return t.Is(Equal, v) }

// NotEquals holds if the number is not v.
func (t NumTarget) NotEquals(v int64) Cmp { return t.Is(NotEqual, v) }

// GreaterThan holds if the number is greater than v.
func (t NumTarget) GreaterThan(v int64) Cmp { return t.Is(Greater, v) }

// LessThan holds if the number is less than v.
func (t NumTarget) LessThan(v int64) Cmp { return t.Is(Less, v) }

// ValueTarget is a key's value to compare, byte by byte. A key that does not exist makes every comparison fail.
type ValueTarget struct{ key, end []byte }

// Value is the key's value.
func Value(key string) ValueTarget { return ValueTarget{key: bytesOf(key)} }

// Prefix compares all keys that begin with the key: each must hold.
func (t ValueTarget) Prefix() ValueTarget { t.key, t.end = prefixRange(t.key); return t }

// Range compares all keys from the key up to end: each must hold.
func (t ValueTarget) Range(end string) ValueTarget { t.end = []byte(end); return t }

// Is compares with v.
func (t ValueTarget) Is(r CompareResult, v string) Cmp {
	return Cmp{&pb.Compare{
		Result: r, Target: pb.Compare_VALUE, Key: t.key, RangeEnd: t.end,
		TargetUnion: &pb.Compare_Value{Value: bytesOf(v)},
	}}
}

// Equals holds if the value is v.
func (t ValueTarget) Equals(v string) Cmp { return t.Is(Equal, v) }

// NotEquals holds if the value is not v.
func (t ValueTarget) NotEquals(v string) Cmp { return t.Is(NotEqual, v) }

// GreaterThan holds if the value sorts after v.
func (t ValueTarget) GreaterThan(v string) Cmp { return t.Is(Greater, v) }

// LessThan holds if the value sorts before v.
func (t ValueTarget) LessThan(v string) Cmp { return t.Is(Less, v) }
