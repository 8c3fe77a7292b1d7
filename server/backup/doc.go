// Package backup is the command "backup": archives of a cluster, from which every moment since can be restored.
//
//	run       the agent: follows the log and takes bases (server/backup/agent)
//	list      what can be restored
//	verify    reads everything back
//	prune     deletes what a policy lets go
//	restore   makes a data directory or a snapshot of a moment (server/backup/restore)
//
// The archive's form is in server/backup/archive, where it lies in server/backup/store, and the member's side in
// server/backup/feed.
//
// # Concurrency
//
// A command runs once.
package backup
