// Package index is the index of keys: a copy-on-write B+tree from keys to the revisions at which they changed.
//
// A Tree belongs to one writer. Freeze gives a Root, which never changes and is read without locks; the writer copies a
// node the first time it touches it after a Freeze. Entries are immutable.
//
// Every node counts the live keys below it (those whose last change is not a deletion), so counting a range and skipping
// deleted keys is O(log n); and its stale entries (those that a compaction could shorten or drop), so a compaction visits
// what there is to compact and not the whole tree.
//
// An entry holds the last change of its key, and apart from it the earlier ones, so that the many keys that were written
// once cost one small struct each.
//
// # Concurrency
//
// A Tree is for one goroutine at a time. Roots and entries may be read from anywhere.
package index
