package wal

import (
	"errors"
	"fmt"
)

// Errors of this package.
var (
	ErrInUse            = errors.New("wal: the log is in use by another process")
	ErrExists           = errors.New("wal: there is a log already")
	ErrSnapshotNotFound = errors.New("wal: the snapshot marker is not in the log")
	ErrSnapshotMismatch = errors.New("wal: the snapshot marker has another term in the log")
	ErrReleased         = errors.New("wal: the entries are no longer in the log")
	ErrClosed           = errors.New("wal: closed")
)

const adviceRejoin = "restore the member from a backup, or remove it from the cluster and add it anew with an empty data directory"

// CorruptError says that a log does not add up, and where.
type CorruptError struct {
	File   string
	Offset int64 // of the frame in question, in bytes
	Reason string
	Advice string
}

// Error describes the fault.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("wal: %s is corrupt at offset %d: %s; %s", e.File, e.Offset, e.Reason, e.Advice)
}
