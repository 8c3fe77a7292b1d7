// Package objectstore keeps API objects in the store, typed, with optimistic concurrency and a watch cache for each kind.
//
// # Keys and values
//
// An object is at /registry/<Place>/[<namespace>/]<name>. The value of a built-in kind is kube-apiserver's envelope: "k8s\0"
// and a runtime.Unknown as protobuf, with the type and, in Raw, the object as protobuf. Custom resources, custom resource
// definitions and API services are JSON. Both are read wherever they are. resourceVersion and selfLink are not stored;
// resourceVersion is the store's revision of the last write. A [Transformer] may encrypt values, with the key as
// authenticated data, as EncryptionConfiguration says.
//
// A write is one transaction that compares the key's mod revision, 0 for a creation. Update and Delete begin with what the
// cache has and, if somebody was faster, go on with what the transaction found. An answer that does not lead to a write (an
// error of the caller's, or no change) is given only for a state that the store confirmed.
//
// # The watch cache
//
// A cache belongs to a kind as it is stored; kinds that are stored as another one ([kinds.Conversion]) share it, and their
// items are converted once: those of a list together, others when they are read. A conversion that fails fails the read, and
// is tried again by the next. One goroutine fills it (a list in pages at one revision), then follows one watch of the store.
// For each response it
//
//  1. changes its tree, a copy-on-write B-tree of items by key;
//  2. appends changes, each with the state before it, to the log of recent changes;
//  3. tells the streams that may be concerned where the first such change is;
//  4. publishes a version (tree, revision) through an atomic pointer;
//  5. wakes those streams, and all who wait for a version.
//
// Hence whoever sees a version finds all of its changes in the log, and a stream that was told of nothing may say that it
// is as far as the version it sees. An [Item] is decoded once, by the writer or the cache, and shared by all versions,
// lists and streams, together with its encoded forms.
//
// The log is bounded by number, bytes and age. A [Stream] is a position in it and a filter; it is found by an index (object,
// namespace, value of a field, such as spec.nodeName, that its selector demands), so that it neither is woken for nor reads
// what cannot concern it. One whose position has left the log ends with 410 Expired. So do all when the cache has to be
// filled anew, because the store compacted what it had not yet read. One that begins before the log does makes the cache
// read what is missing from the store's history, once for all, within the same bounds: a watch that another process served
// goes on in this one.
//
// # Reads
//
//	resourceVersion  match         list                                   get
//	""                             now, from the cache if it catches up   now
//	"0"              any           whatever the cache has, no limit       whatever the cache has
//	N                "" no limit   not older than N                       not older than N
//	N                "" limit      exactly N
//	N                NotOlderThan  not older than N
//	N                Exact         exactly N
//	                 continue      exactly the token's, or now (-1)
//
// A list of now asks the store for its revision, one question for all who ask meanwhile, and waits until the cache is there;
// if that takes too long it reads the store. A get of now asks the store for the object if it is newer than the cache's.
// Exact lists come from the cache if it holds that revision, or kept it for a list in pages, otherwise from the store.
//
// # Compaction
//
// Old revisions are compacted in the store every CompactEvery, to the revision of one interval before, so that a continue
// token and a watch are good for at least that long. Several API servers agree by the key compact_rev_key, as kube-apiserver
// does, on one that does it.
//
// # Concurrency
//
// A Store, a Collection and an Item may be used from any number of goroutines, a Stream's Next from one at a time. Reads
// from the cache take no lock. cache.tree and the log's end belong to the feeding goroutine. wakers.mu is held while a
// change is published; nothing is locked under it but the metrics, and Store.mu is never taken by the feeding goroutine.
// Callers' code never runs under a lock, except that of an encoding that was asked for twice at once.
package objectstore
