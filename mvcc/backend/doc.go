// Package backend keeps the state of a member in a bbolt file of etcd's layout, behind a write buffer that readers see.
//
// The file has two faces. The bucket `key` is a log of revisions: written in rising order, read by exact revision, its
// rows never changed and only removed by compaction. All other buckets are small tables of rows.
//
//	AppendRev, DeleteRevs, Put, Delete, SetConsistentIndex     one writer; readers do not see it yet
//	    | Publish                                              all of it at once, and the payload (the index root) with it
//	window of records in memory + bbolt read transaction       what a View holds: a pointer load and a reference count
//	    | flush, every BatchInterval or BatchLimit records     a bbolt transaction in the background
//	bbolt file
//
// A flush contains exactly what some Publish made visible, with the consistent index as it was then, so the file is at
// every moment the state after a whole batch of entries. A Publish waits only when the window is past MaxBufferBytes.
//
// # Keys of the revision bucket
//
//	8 bytes main revision, big endian | '_' | 8 bytes sub revision, big endian [ | 't' for a tombstone ]
//
// # The memory map
//
// A View keeps a bbolt read transaction open, and bbolt cannot grow its memory map while one is. The map is therefore made
// far larger than the file (address space costs nothing), and a file that comes near its end is rewritten by Defrag, which
// maps the new one anew.
//
// # Concurrency
//
// AppendRev, DeleteRevs, SetConsistentIndex and Publish belong to one writer at a time. View, Get and the sizes may be
// called from anywhere and take no lock that a flush holds. Put, Delete, Get and ForEach of rows take a mutex for the
// length of a map access. Only one flush, commit or defragmentation works on the file at a time.
package backend
