// Package archive is the form of a backup in a store: bases, which are snapshots of the database, and segments, which are
// runs of the log's entries. It can be read without the cluster that it is of.
//
// # Objects
//
//	archive.json                                    format and cluster
//	agent.json                                      the agent that writes, see Claim
//	chains/<chain>/base-<index>-<term>-<revision>-<time>-<sha256>.db.zst
//	chains/<chain>/log-<first>-<last>-<revision before>-<revision after>-<from>-<to>-<sha256>.seg
//
// Indexes and terms are hexadecimal, revisions decimal (0: not known), times Unix milliseconds. A name says all that
// is needed to find what a restore reads; what it says is checked against the contents. The sha256 of a base is that of the
// database (what Maintenance.Snapshot sends behind it), that of a segment is of the object's bytes.
//
// A chain is one history without a gap: each segment begins with the entry after the last one of the segment before, and
// the agent has seen that one in the member's log. When that cannot be (the entries are gone from the log, or the cluster
// is another one now) a new chain begins. A chain can be restored from its first base on. Its name begins with the time
// at which it began, so chains sort by age.
//
// Segments may overlap, if two agents wrote at once: what they have in common is the same.
//
// # A segment
//
//	zstd of:
//	+---------------+-------+-------+     +-------+-------+
//	| "keelseg1"  8 | frame | frame | ... | frame | frame |     head, chunks, end; nothing follows
//	+---------------+-------+-------+     +-------+-------+
//	frame
//	+----------+----------+------------+------------------------------+
//	| length 4 | kind 1   | CRC32C 4   | message, length bytes        |     numbers are little endian,
//	+----------+----------+------------+------------------------------+     the checksum is of kind and message
//	kinds: 1 backuppb.SegmentHead, 2 backuppb.Chunk, 3 backuppb.SegmentEnd
//
// # Concurrency
//
// A Writer or Reader is for one goroutine. Functions that take a store may be called from anywhere.
package archive
