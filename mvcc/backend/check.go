package backend

import (
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// Check reads the whole of a file that nobody has open, and returns the log entry up to which it contains everything. It is for
// a file that came from somewhere else, before it takes the place of one's own.
func Check(path string) (index, term uint64, err error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return 0, 0, fmt.Errorf("backend: %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bbolt.Tx) error {
		for bk := range bucketCount {
			bucket := tx.Bucket([]byte(bk.String()))
			if bucket == nil {
				return fmt.Errorf("backend: %s has no bucket %s", path, bk)
			}
			if err := bucket.ForEach(func(k, _ []byte) error {
				if bk != Key {
					return nil
				}
				_, _, err := ParseKey(k)
				return err
			}); err != nil {
				return err
			}
		}
		meta := tx.Bucket([]byte(Meta.String()))
		if index, term = number(meta.Get(consistentIndexKey)), number(meta.Get(termKey)); index == 0 {
			return fmt.Errorf("backend: %s does not say which entries it contains", path)
		}
		return nil
	})
	return index, term, err
}
