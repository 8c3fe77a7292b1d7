package replica

import (
	"fmt"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/membership"
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

// Tables adapts a backend to the tables of membership.
type Tables struct{ Backend *backend.Backend }

func (t Tables) bucket(b membership.Bucket) backend.Bucket {
	switch b {
	case membership.BucketCluster:
		return backend.Cluster
	case membership.BucketMembers:
		return backend.Members
	case membership.BucketRemoved:
		return backend.MembersRemoved
	}
	panic(fmt.Sprintf("replica: there is no table %q", b))
}

// Get reads a row.
func (t Tables) Get(b membership.Bucket, key []byte) []byte { return t.Backend.Get(t.bucket(b), key) }

// Put writes a row.
func (t Tables) Put(b membership.Bucket, key, value []byte) { t.Backend.Put(t.bucket(b), key, value) }

// Delete removes a row.
func (t Tables) Delete(b membership.Bucket, key []byte) { t.Backend.Delete(t.bucket(b), key) }

// ForEach calls fn for every row, in the order of the keys.
func (t Tables) ForEach(b membership.Bucket, fn func(key, value []byte) error) error {
	return t.Backend.ForEach(t.bucket(b), fn)
}

// AuthRows adapts a backend to the tables of auth.
type AuthRows struct{ Backend *backend.Backend }

func (r AuthRows) bucket(t auth.Table) backend.Bucket {
	switch t {
	case auth.TableAuth:
		return backend.Auth
	case auth.TableUsers:
		return backend.AuthUsers
	case auth.TableRoles:
		return backend.AuthRoles
	}
	panic(fmt.Sprintf("replica: there is no table %d of auth", t))
}

// Get reads a row.
func (r AuthRows) Get(t auth.Table, key []byte) []byte { return r.Backend.Get(r.bucket(t), key) }

// Put writes a row.
func (r AuthRows) Put(t auth.Table, key, value []byte) { r.Backend.Put(r.bucket(t), key, value) }

// Delete removes a row.
func (r AuthRows) Delete(t auth.Table, key []byte) { r.Backend.Delete(r.bucket(t), key) }

// ForEach calls fn for every row, in the order of the keys.
func (r AuthRows) ForEach(t auth.Table, fn func(key, value []byte) error) error {
	return r.Backend.ForEach(r.bucket(t), fn)
}

// replace puts another backend under all parts of the state. The old one is closed in the background: readers may still
// hold views of it.
func (s *State) replace(be *backend.Backend) error {
	// Permissions before the keys: nobody reads new keys by old rights.
	if err := s.Auth.Restore(AuthRows{be}); err != nil {
		return err
	}
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
	if err := s.Members.Restore(Tables{be}); err != nil {
		return err
	}
	old := s.backend.Swap(be)
	go old.Close()
	return nil
}

// Attach records that a restored key belongs to a lease. A key whose lease is gone belongs to none, as in etcd.
func (s *State) Attach(key []byte, id int64) { _ = s.Leases.Attach(lease.ID(id), key) }

var storageVersionKey = []byte("storageVersion")

// StorageVersion is the version that the files are for, "" if that was never recorded.
func StorageVersion(be *backend.Backend) string {
	return string(be.Get(backend.Meta, storageVersionKey))
}

// firstStorageVersion is the first version that records the version of its files.
const firstStorageVersion = "3.6.0"

// SetStorageVersion records that the files are for a version of the cluster. All versions since the first store the same, so
// nothing else changes. Older versions are not recorded; a cluster has one (3.0) before all of its members are known, too.
func SetStorageVersion(be *backend.Backend, cluster string) {
	if older, err := membership.NewerVersion(firstStorageVersion, cluster); err == nil && !older && cluster != StorageVersion(be) {
		be.Put(backend.Meta, storageVersionKey, []byte(cluster))
	}
}
