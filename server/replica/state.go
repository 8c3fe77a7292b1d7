package replica

import (
	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc/backend"
)

// Rows adapts one small bucket of a backend to the narrow interfaces of those who store rows in it.
type Rows struct {
	Backend *backend.Backend
	Bucket  backend.Bucket
}

// Put writes a row.
func (r Rows) Put(key, value []byte) { r.Backend.Put(r.Bucket, key, value) }

// Delete removes a row.
func (r Rows) Delete(key []byte) { r.Backend.Delete(r.Bucket, key) }

// Get reads a row, nil if there is none.
func (r Rows) Get(key []byte) []byte { return r.Backend.Get(r.Bucket, key) }

// ForEach calls fn for every row, in the order of the keys.
func (r Rows) ForEach(fn func(key, value []byte) error) error {
	return r.Backend.ForEach(r.Bucket, fn)
}

// replace puts another backend under all parts of the state. The old one is closed in the background: readers may still
// hold views of it.
func (s *State) replace(be *backend.Backend) error {
	// Leases first: restoring the keys attaches them to their leases.
	if err := s.Leases.Restore(Rows{be, backend.Lease}); err != nil {
		return err
	}
	if err := s.Store.Restore(be, s.Attach); err != nil {
		return err
	}
	if err := s.Alarms.Restore(Rows{be, backend.Alarm}); err != nil {
		return err
	}
	if err := s.Members.Restore(be); err != nil {
		return err
	}
	old := s.backend.Swap(be)
	go old.Close()
	return nil
}

// Attach records that a restored key belongs to a lease. A key whose lease is gone belongs to none, as in etcd.
func (s *State) Attach(key []byte, id int64) { _ = s.Leases.Attach(lease.ID(id), key) }
