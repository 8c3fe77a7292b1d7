// Package store is where an archive lies: named objects, which are written once and never changed, in a directory or in
// a bucket of an S3-compatible service.
//
// Names are relative paths of letters, digits and "._-", with slashes between. An object appears whole and durable, or not at all.
//
// In a directory an object is a file of its name. While it is written it is in the folder "tmp", which holds nothing else.
//
// # Concurrency
//
// All methods may be called from any goroutine, and from several processes at once.
package store
