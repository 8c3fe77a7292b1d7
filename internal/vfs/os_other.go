//go:build !linux

package vfs

func (f osFile) SyncData() error              { return f.Sync() }
func (f osFile) Preallocate(size int64) error { return f.extend(size) }
