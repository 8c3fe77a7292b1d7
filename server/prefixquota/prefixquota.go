// Package prefixquota bounds the keys under a prefix and their bytes.
//
// What a prefix has is not counted here: the store's index knows the keys that exist in any range and the bytes that are stored for
// them (mvcc.ReadTxn.Weigh), so deletions, leases that end, restarts and snapshots are right by themselves. History does not
// count.
//
// Whether a command fits is decided before it is proposed, by the member that takes it; what is applied is never refused, so that
// all members stay alike, also those that are etcd's. What a command may add is reserved until its outcome is known and published. So
// the clients of a member do not pass a quota together; those of several members may, by what is on its way at one moment, and so may
// those who replace a key that is being deleted.
//
// # Concurrency
//
// All methods may be called from any goroutine. A nil Book has no quotas.
package prefixquota

import (
	"bytes"
	"strconv"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/mvcc"
)

// Quota is the bound of a prefix; 0 means that there is none.
type Quota struct {
	Prefix      string
	Bytes, Keys int64
}

// amount is keys and bytes.
type amount struct{ keys, bytes int64 }

func (a amount) plus(b amount) amount { return amount{a.keys + b.keys, a.bytes + b.bytes} }
func (a amount) less(b amount) amount { return amount{a.keys - b.keys, a.bytes - b.bytes} }
func (a amount) max(b amount) amount  { return amount{max(a.keys, b.keys), max(a.bytes, b.bytes)} }

// account is a prefix with its quota.
type account struct {
	prefix   string
	raw      []byte  // the same
	end      *string // of the range of keys with the prefix; nil: all that follow
	limit    amount
	reserved amount // for commands on their way
	refused  int64
}

// Book is described in the package comment.
type Book struct {
	store    Store
	mu       sync.Mutex
	accounts []account
}

// Store gives read transactions.
type Store interface {
	Read() *mvcc.ReadTxn
}

// New makes a Book, nil if there are no quotas.
func New(quotas []Quota, store Store) *Book {
	if len(quotas) == 0 {
		return nil
	}
	b := &Book{store: store, accounts: make([]account, len(quotas))}
	for i, q := range quotas {
		b.accounts[i] = account{prefix: q.Prefix, raw: []byte(q.Prefix), end: mvcc.PrefixEnd(q.Prefix), limit: amount{q.Keys, q.Bytes}}
	}
	return b
}

func (a *account) used(txn *mvcc.ReadTxn) amount {
	keys, size := txn.Weigh(a.prefix, a.end)
	return amount{keys, size}
}

// counts says whether a key has a quota.
func (b *Book) counts(key []byte) bool {
	for i := range b.accounts {
		if bytes.HasPrefix(key, b.accounts[i].raw) {
			return true
		}
	}
	return false
}

// Reservation is what a command may add, until Release.
type Reservation struct {
	book  *Book
	needs []amount // by account
}

// Release ends a reservation, when the outcome of its command is known.
func (r Reservation) Release() {
	if r.book == nil {
		return
	}
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	for i, n := range r.needs {
		a := &r.book.accounts[i]
		a.reserved = a.reserved.less(n)
	}
}

// Reserve reserves what a command may add at most, whatever becomes of its comparisons. Deletions add nothing; they make
// room once they are applied. The error has the code ResourceExhausted and names the prefix.
func (b *Book) Reserve(r *pb.InternalRaftRequest) (Reservation, error) {
	if b == nil || !b.touched(r) {
		return Reservation{}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	txn := b.store.Read() // under the lock: whoever released a reservation before has published what it added
	defer txn.Close()
	most := b.needs(r, sizer{rev: txn.Rev()})
	if b.reserve(txn, most) == nil {
		return Reservation{b, most}, nil
	}
	exact := b.needs(r, sizer{rev: txn.Rev(), txn: txn})
	if full := b.reserve(txn, exact); full != nil {
		full.refused++
		return Reservation{}, full.refusal(full.used(txn))
	}
	return Reservation{b, exact}, nil
}

// reserve takes all, or nothing if an account is full: then it returns that. What does not add to it passes.
func (b *Book) reserve(txn *mvcc.ReadTxn, needs []amount) (full *account) {
	for i, n := range needs {
		if n == (amount{}) {
			continue
		}
		a := &b.accounts[i]
		now := a.used(txn).plus(a.reserved)
		if over(n.bytes, now.bytes, a.limit.bytes) || over(n.keys, now.keys, a.limit.keys) {
			return a
		}
	}
	for i, n := range needs {
		a := &b.accounts[i]
		a.reserved = a.reserved.plus(n)
	}
	return nil
}

func over(need, now, limit int64) bool { return limit > 0 && need > 0 && now+need > limit }

func (a *account) refusal(used amount) error {
	return status.Errorf(codes.ResourceExhausted, "etcdserver: quota of prefix %q exceeded: it has %d bytes (quota: %s) and %d keys (quota: %s)",
		a.prefix, used.bytes, bound(a.limit.bytes), used.keys, bound(a.limit.keys))
}

func bound(limit int64) string {
	if limit == 0 {
		return "none"
	}
	return strconv.FormatInt(limit, 10)
}
