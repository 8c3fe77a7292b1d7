// Package api is the root of Keelson's own protobuf messages; etcd's client-facing messages come from go.etcd.io/etcd/api/v3.
//
//   - walpb: records of the write-ahead log
//   - snappb: the envelope of a snapshot file
//   - leasepb: lease records in the backend and the member-to-member lease query
//
// The messages are field for field those that etcd 3.7 writes, under package names of their own, so that a test may link both.
// After editing a .proto file run `make generate` (needs protoc).
package api
