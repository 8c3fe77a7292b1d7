// Package wal is the write-ahead log: the entries and hard states of raft, in etcd's format.
//
// # Files
//
// A log is a directory of segments <sequence>-<first index>.wal (16 hexadecimal digits each). A segment is preallocated,
// holds frames, and is followed by a new one once it is larger than Options.SegmentBytes. The next one is prepared in the
// background as a .tmp file.
//
//	frame    8 bytes little endian: low 56 bits length of the record, top byte 0x80|padding if there is padding
//	         record: marshalled walpb.Record{type, crc, data}
//	         0..7 zero bytes, so that frames begin at multiples of 8
//	record   1 metadata, 2 entry (raftpb.Entry), 3 hard state (raftpb.HardState), 4 checksum, 5 snapshot marker
//
// The crc of a record is the CRC32-Castagnoli of all data in the log so far. A segment begins with a record of type 4, which
// carries the checksum over from the one before, then the metadata, then the hard state. A zero length ends a segment.
//
// # Invariants
//
//   - What Save was asked to sync is on the disk when it returns nil. After an error nothing more is ever written: what is on
//     the disk then is not known.
//   - A later entry with an index that was there before replaces it and everything after it.
//   - Only the end of the last segment may be torn (a crash in the middle of a write): it is cut off, and a copy is set
//     aside. Anything else that does not add up is refused with a *CorruptError.
//   - Released segments stay readable (Entries) until they are purged, but not over a restart.
//
// # Concurrency
//
// Save, SaveSnapshot, ReleaseTo, Sync and Close are for one goroutine at a time. Entries may be called from others
// meanwhile.
package wal
