package utl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// readFile calls fn with a database file that was found to be sound, open for reading and locked against writers.
func (u *utl) readFile(path string, fn func(*bbolt.Tx) error) (err error) {
	if err := isFile(path); err != nil {
		return err
	}
	db, err := bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true, Timeout: u.timeout})
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("%s is in use by another process (waited %v)", path, u.timeout)
	}
	if err != nil {
		return fmt.Errorf("%s is not a database file: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		if err := inBounds(tx); err != nil {
			return fmt.Errorf("%s is damaged: %w", path, err)
		}
		if err := consistent(tx); err != nil {
			return err
		}
		return fn(tx)
	})
}

// isFile says why there is no file to be read.
func isFile(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	return err
}

func inBounds(tx *bbolt.Tx) error {
	_, err := inUse(tx)
	return err
}

// inUse walks through all pages and returns the bytes of those that are in use.
func inUse(tx *bbolt.Tx) (int64, error) {
	f, err := os.Open(tx.DB().Path())
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() < tx.Size() {
		return 0, fmt.Errorf("it is cut off: %d bytes of %d", info.Size(), tx.Size())
	}
	pageSize := int64(tx.DB().Info().PageSize)
	p := &pages{r: f, size: pageSize, limit: uint64(tx.Size() / pageSize)}
	err = p.check(uint64(tx.Cursor().Bucket().Root()), int64(tx.ID()))
	return p.used() * pageSize, err
}

// maxFaults is how many faults of a file are told of.
const maxFaults = 20

// consistent is bbolt's own check, for a file whose pages are in bounds.
func consistent(tx *bbolt.Tx) error {
	var faults []string
	n := 0
	for err := range tx.Check() {
		if n++; n <= maxFaults {
			faults = append(faults, err.Error())
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("snapshot file integrity check failed. %d errors found.\n%s", n, strings.Join(faults, "\n"))
}

// patiently calls open again and again, while it fails because another process has the file, until the timeout.
func (u *utl) patiently(inUse error, open func() error) error {
	start := time.Now()
	for {
		err := open()
		if !errors.Is(err, inUse) || u.timeout > 0 && time.Since(start) >= u.timeout {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
