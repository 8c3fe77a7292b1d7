package archive

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/keelson-io/keelson/mvcc/backend"
)

// Describe fills in what the database in a file says: index, term and revision. The file must have been found whole.
func (b *Base) Describe(path string) (err error) {
	db, err := bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		meta, keys := tx.Bucket([]byte(backend.Meta.String())), tx.Bucket([]byte(backend.Key.String()))
		if meta == nil || keys == nil {
			return errors.New("the database is none of a member")
		}
		b.Index, b.Term = number(meta.Get([]byte("consistent_index"))), number(meta.Get([]byte("term")))
		if b.Index == 0 {
			return errors.New("the database does not say up to which entry of the log it is")
		}
		b.Revision = 1
		for _, name := range []string{"scheduledCompactRev", "finishedCompactRev"} {
			if r, _, err := backend.ParseKey(meta.Get([]byte(name))); err == nil {
				b.Revision = max(b.Revision, r.Main)
			}
		}
		if k, _ := keys.Cursor().Last(); k != nil {
			r, _, err := backend.ParseKey(k)
			if err != nil {
				return fmt.Errorf("the last revision: %w", err)
			}
			b.Revision = max(b.Revision, r.Main)
		}
		return nil
	})
}

func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
