// Package auth is the replicated state of authentication: users, roles with their permissions, whether it is enabled, and
// its revision, which every change raises.
//
// The rows are etcd's: bucket auth has authEnabled (one byte) and authRevision (8 bytes, big endian), authUsers and
// authRoles hold marshalled authpb.User and authpb.Role under their names.
//
// A Snapshot is all of it at one moment. It answers whether a command is permitted (Permit): one walk over everything the
// command does, nested transactions included. The apply goroutine asks it about every command, with the identity that the
// command carries, and its answers there must be etcd's to the letter: members of both kinds apply the same log. Services
// ask the same question before they propose, so that what will be refused does not take room in the log.
//
// An identity is a user's name and the revision at which the user was identified. What was decided at an older revision
// than the present one counts no more (ErrOldRevision).
//
// # Concurrency
//
// State is changed by the apply goroutine only. Load may be called from anywhere; a Snapshot never changes.
package auth
