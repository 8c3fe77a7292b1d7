package vfs

import (
	"io"
	"io/fs"
)

// Op is an operation that can fail.
type Op string

// Operations of a file system and of its files.
const (
	OpOpen        Op = "open"
	OpMkdir       Op = "mkdir"
	OpRemove      Op = "remove"
	OpRename      Op = "rename"
	OpReadDir     Op = "readdir"
	OpStat        Op = "stat"
	OpSyncDir     Op = "syncdir"
	OpLock        Op = "lock"
	OpRead        Op = "read"
	OpWrite       Op = "write"
	OpTruncate    Op = "truncate"
	OpPreallocate Op = "preallocate"
	OpSync        Op = "sync" // of a file: Sync and SyncData
)

// Faulty is a file system that asks a function before every operation, and fails with its error. A write that fails has
// written its first half, up to a full sector, as systems do. The function may block, to slow the operation down, and is called from any goroutine.
type Faulty struct {
	base   FS
	before func(op Op, name string) error
}

// NewFaulty puts a function before a file system.
func NewFaulty(base FS, before func(op Op, name string) error) *Faulty { return &Faulty{base, before} }

// OpenFile opens a file whose operations may fail, too.
func (f *Faulty) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if err := f.before(OpOpen, name); err != nil {
		return nil, err
	}
	file, err := f.base.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{File: file, before: f.before}, nil
}

// MkdirAll makes a directory and those above it.
func (f *Faulty) MkdirAll(name string, perm fs.FileMode) error {
	if err := f.before(OpMkdir, name); err != nil {
		return err
	}
	return f.base.MkdirAll(name, perm)
}

// Remove removes a file or an empty directory.
func (f *Faulty) Remove(name string) error {
	if err := f.before(OpRemove, name); err != nil {
		return err
	}
	return f.base.Remove(name)
}

// Rename moves a file; the function is given its old name.
func (f *Faulty) Rename(from, to string) error {
	if err := f.before(OpRename, from); err != nil {
		return err
	}
	return f.base.Rename(from, to)
}

// ReadDir lists the names in a directory.
func (f *Faulty) ReadDir(name string) ([]string, error) {
	if err := f.before(OpReadDir, name); err != nil {
		return nil, err
	}
	return f.base.ReadDir(name)
}

// Stat describes a file.
func (f *Faulty) Stat(name string) (fs.FileInfo, error) {
	if err := f.before(OpStat, name); err != nil {
		return nil, err
	}
	return f.base.Stat(name)
}

// SyncDir makes the entries of a directory durable.
func (f *Faulty) SyncDir(name string) error {
	if err := f.before(OpSyncDir, name); err != nil {
		return err
	}
	return f.base.SyncDir(name)
}

// Lock locks a file.
func (f *Faulty) Lock(name string) (io.Closer, error) {
	if err := f.before(OpLock, name); err != nil {
		return nil, err
	}
	return f.base.Lock(name)
}

type faultyFile struct {
	File
	before func(Op, string) error
}

func (f *faultyFile) Read(b []byte) (int, error) {
	if err := f.before(OpRead, f.Name()); err != nil {
		return 0, err
	}
	return f.File.Read(b)
}

func (f *faultyFile) ReadAt(b []byte, off int64) (int, error) {
	if err := f.before(OpRead, f.Name()); err != nil {
		return 0, err
	}
	return f.File.ReadAt(b, off)
}

// firstHalf is how much of a write at an offset is done.
func firstHalf(n int, at int64) int {
	end := at + int64(n/2)
	return int(max(0, end-end%sectorBytes-at))
}

func (f *faultyFile) Write(b []byte) (int, error) {
	if err := f.before(OpWrite, f.Name()); err != nil {
		at, _ := f.File.Seek(0, io.SeekCurrent)
		n, _ := f.File.Write(b[:firstHalf(len(b), at)])
		return n, err
	}
	return f.File.Write(b)
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.before(OpWrite, f.Name()); err != nil {
		n, _ := f.File.WriteAt(b[:firstHalf(len(b), off)], off)
		return n, err
	}
	return f.File.WriteAt(b, off)
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.before(OpTruncate, f.Name()); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultyFile) Preallocate(size int64) error {
	if err := f.before(OpPreallocate, f.Name()); err != nil {
		return err
	}
	return f.File.Preallocate(size)
}

func (f *faultyFile) Sync() error {
	if err := f.before(OpSync, f.Name()); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultyFile) SyncData() error {
	if err := f.before(OpSync, f.Name()); err != nil {
		return err
	}
	return f.File.SyncData()
}
