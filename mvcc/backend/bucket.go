package backend

import (
	"cmp"
	"encoding/binary"
	"fmt"
)

// Bucket is one of the buckets of the file.
type Bucket uint8

// The buckets, with etcd's names.
const (
	Key Bucket = iota
	Meta
	Lease
	Alarm
	Cluster
	Members
	MembersRemoved
	Auth
	AuthUsers
	AuthRoles
	bucketCount
)

// String is the bucket's name in the file.
func (b Bucket) String() string {
	return [bucketCount]string{"key", "meta", "lease", "alarm", "cluster", "members", "members_removed", "auth", "authUsers", "authRoles"}[b]
}

// Rev is a revision: the number of the transaction that wrote it, and its place in that transaction.
type Rev struct{ Main, Sub int64 }

// Compare orders revisions as they were written.
func (r Rev) Compare(o Rev) int {
	if c := cmp.Compare(r.Main, o.Main); c != 0 {
		return c
	}
	return cmp.Compare(r.Sub, o.Sub)
}

const (
	revLen        = 17
	tombstoneMark = 't'
)

// AppendKey appends the key of a revision in the bucket `key`.
func AppendKey(b []byte, r Rev, tombstone bool) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Main))
	b = append(b, '_')
	b = binary.BigEndian.AppendUint64(b, uint64(r.Sub))
	if tombstone {
		b = append(b, tombstoneMark)
	}
	return b
}

// ParseKey reads what AppendKey wrote.
func ParseKey(b []byte) (r Rev, tombstone bool, err error) {
	tombstone = len(b) == revLen+1 && b[revLen] == tombstoneMark
	if len(b) != revLen && !tombstone || b[8] != '_' {
		return Rev{}, false, fmt.Errorf("backend: %x is not a revision", b)
	}
	return Rev{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:]))}, tombstone, nil
}

// Rows of the meta bucket that the backend itself writes.
var (
	consistentIndexKey = []byte("consistent_index")
	termKey            = []byte("term")
)
