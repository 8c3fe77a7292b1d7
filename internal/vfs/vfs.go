// Package vfs is the seam between the module and the disk: a file system as an interface, the real one, one in memory
// that can lose what was not synced, and one that fails on demand.
//
// # Concurrency
//
// All implementations may be used from any goroutine. The methods of one File that move its position (Read, Write, Seek)
// must be called from one goroutine at a time.
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// ErrLocked says that another process (or another opener in this one) holds a lock.
var ErrLocked = errors.New("vfs: file is locked")

// FS is a file system. Names are paths as in package os, flags are os.O_*.
type FS interface {
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	MkdirAll(name string, perm fs.FileMode) error
	Remove(name string) error
	Rename(from, to string) error
	// ReadDir lists the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Lock takes an exclusive lock on a file that exists, or fails at once with ErrLocked.
	Lock(name string) (io.Closer, error)
}

// File is an open file.
type File interface {
	io.ReadWriteCloser
	io.ReaderAt
	io.WriterAt
	io.Seeker
	Name() string
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	// Sync makes data and metadata durable.
	Sync() error
	// SyncData makes the data durable, and of the metadata only what is needed to read it back.
	SyncData() error
	// Preallocate extends the file to size bytes, with space on disk reserved where the system can.
	Preallocate(size int64) error
}

// Create opens a new, empty file for reading and writing.
func Create(f FS, name string) (File, error) {
	return f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

// Open opens a file for reading.
func Open(f FS, name string) (File, error) { return f.OpenFile(name, os.O_RDONLY, 0) }

// ReadFile returns the contents of a file.
func ReadFile(f FS, name string) ([]byte, error) {
	file, err := Open(f, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

// Exists says whether a name is there.
func Exists(f FS, name string) bool {
	_, err := f.Stat(name)
	return err == nil
}
