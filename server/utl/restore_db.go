package utl

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/replica"
)

// sector divides the size of every database, so a remainder of 32 bytes is a checksum.
const sector = 512

// copyDB copies the snapshot without its checksum, which must be right.
func (r *restoration) copyDB() (err error) {
	if err := isFile(r.source); err != nil {
		return err
	}
	src, err := os.Open(r.source)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	hasSum := size%sector == sha256.Size
	if hasSum {
		size -= sha256.Size
	} else if !r.flags.skipHashCheck {
		return errors.New("snapshot missing hash but --skip-hash-check=false")
	}
	path := dbPath(r.member)
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(dst, h), src, size); err != nil {
		return fmt.Errorf("copying %s: %w", r.source, err)
	}
	if hasSum && !r.flags.skipHashCheck {
		want := make([]byte, sha256.Size)
		if _, err := io.ReadFull(src, want); err != nil {
			return fmt.Errorf("reading the checksum of %s: %w", r.source, err)
		}
		if got := h.Sum(nil); !bytes.Equal(got, want) {
			return fmt.Errorf("expected sha256 %x, got %x: %s is damaged", want, got, r.source)
		}
	}
	return dst.Sync()
}

// writeDB makes the database that of a member of the new cluster.
func (r *restoration) writeDB() (err error) {
	path := dbPath(r.member)
	var last int64
	if err := r.utl.readFile(path, func(tx *bbolt.Tx) (err error) {
		last, err = lastRevision(tx)
		return err
	}); err != nil {
		return err
	}
	be, err := backend.Open(backend.Config{Path: path, InitialMmapBytes: int64(min(r.flags.mmapBytes, 1<<46)), Logger: r.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	if err := r.writeMembers(be); err != nil {
		return err
	}
	if r.flags.bumpRevision > 0 {
		if err := r.bump(be, last); err != nil {
			return err
		}
	}
	be.SetConsistentIndex(r.index(), firstTerm)
	be.Publish(nil)
	return be.Commit()
}

// lastRevision is the latest revision of a file, 0 if it holds none.
func lastRevision(tx *bbolt.Tx) (int64, error) {
	keys := tx.Bucket(keyBucket)
	if keys == nil {
		return 0, errors.New("the file has no key space: it is no database of etcd's kind")
	}
	k, _ := keys.Cursor().Last()
	if k == nil {
		return 0, nil
	}
	rev, _, err := backend.ParseKey(k)
	return rev.Main, err
}

func (r *restoration) writeMembers(be *backend.Backend) error {
	for _, bk := range []backend.Bucket{backend.Members, backend.MembersRemoved} {
		var old [][]byte
		if err := be.ForEach(bk, func(k, _ []byte) error {
			old = append(old, bytes.Clone(k))
			return nil
		}); err != nil {
			return err
		}
		for _, k := range old {
			be.Delete(bk, k)
		}
	}
	if err := r.cluster.Attach(replica.Tables{Backend: be}); err != nil {
		return err
	}
	for _, m := range r.cluster.Members() {
		if err := r.cluster.Add(m); err != nil {
			return err
		}
		r.log.Info("added member", zap.String("cluster-id", membership.FormatID(r.cluster.ClusterID())),
			zap.String("member-id", membership.FormatID(m.ID)), zap.Strings("peer-urls", m.PeerURLs))
	}
	return nil
}

// bump makes a later revision the latest one, and has everything up to it compacted when a member starts.
func (r *restoration) bump(be *backend.Backend, last int64) error {
	by := r.flags.bumpRevision
	if by > math.MaxInt64-uint64(last) {
		return fmt.Errorf("--bump-revision %d: the revision %d would be past the highest there is", by, last)
	}
	rev := backend.Rev{Main: last + int64(by)}
	be.AppendRev(rev, false, []byte{})
	be.Put(backend.Meta, compactionKeys[0], backend.AppendKey(nil, rev, false))
	r.log.Info("bumped the latest revision and marked it compacted", zap.Int64("from", last), zap.Int64("to", rev.Main))
	return nil
}
