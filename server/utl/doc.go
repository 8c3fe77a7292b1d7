// Package utl is the offline tool: it works on database files and data directories that no member has open, with the
// commands, flags, outputs and exit statuses of etcdutl 3.7.
//
//	snapshot status    what a database file holds, and the hash of all of it
//	snapshot restore   a snapshot becomes the data directory of a member of a new cluster
//	hashkv             the hash of the key space up to a revision, equal on all members
//	defrag             a data directory's database without its free pages
//	migrate            a data directory becomes that of another version
//	preflight          whether and how a data directory can be taken over; etcdutl has no such command
//
// # Reading a file that may be broken
//
// bbolt maps a file into memory and follows the numbers in it, so a damaged or truncated file would end the process.
// Every file is therefore walked with bounds checked (pages.go) before bbolt follows anything in it. A file with a
// checksum that was found right needs no such walk.
//
// status and hashkv open the file read-only and never change it: a file in which a compaction was interrupted is hashed as
// if it had been finished, and the checksum behind a snapshot stays in place.
//
// preflight may be used beside a running member, which has its database locked: the file is copied, again if a commit came
// between. The log is read without a lock.
//
// # What restore makes
//
//	<data-dir>/member/snap/db                     the snapshot without its checksum; other members, removed members
//	<data-dir>/member/snap/<term>-<index>.snap    the members, in the form that etcd keeps there
//	<wal-dir>                                     metadata, one configuration change for each member, hard state, marker
//
// The members are those of --initial-cluster, with the ids that follow from their URLs and the token. The log begins with
// their configuration changes, at the indexes 1..n of term 1, and everything is as if they had been committed and applied:
// consistent index, hard state and snapshot stand at n. The cluster's version stays as it was in the snapshot.
//
// The folder is built under the name member.part, and gets its name when all of it is durable. After an error nothing is
// left that was not there before.
//
// # Errors
//
// A command that fails returns an error with an ExitCode method and has written nothing about it; whoever executes the
// command prints it, unless its text is empty because everything was said before. The codes are those of etcdutl.
//
// # Concurrency
//
// A command runs on one goroutine. Executing a command sets cobra's global EnablePrefixMatching; who executes several at
// once sets it beforehand.
package utl
