// Package insight is what a member knows of its own use: which calls clients make and how long they take (Calls), which parts
// of the key space are used most (Heat), and which are the largest (Biggest).
//
// # Prefixes
//
// The parts of the key space are prefixes that end with a slash, at most maxDepth deep, and whole keys: /registry/pods/ns/name is
// in /registry/, /registry/pods/, /registry/pods/ns/ and itself. A prefix of which one part has nearly everything says nothing that
// the part does not, and is left out.
//
// # Heat
//
// A space-saving sketch (Metwally, Agrawal, El Abbadi 2005) for each depth, for reads and for writes: at most tableSize
// counters; a prefix that has none takes the place of the smallest and its count, which is remembered as the possible error. The
// weight of what is counted grows exponentially with time (forward decay: Cormode, Shkapenyuk, Srivastava, Xu 2009), so that
// counts fade by 1/e in ten seconds without anybody going through them. Calls are sampled: all of them while there are few, one
// of a power of two when there are many, with that weight.
//
// # Biggest
//
// The index of keys knows the bytes of every range in logarithmic time. Keys at even distances, in bytes, name the candidates: a
// prefix that has more than three times the distance is among them for certain. Nothing is scanned.
//
// # Concurrency
//
// Everything may be called concurrently. Calls.Init comes first.
package insight
