// Package api is the root of Keelson's own protobuf messages; etcd's client-facing messages come from go.etcd.io/etcd/api/v3.
//
//   - walpb: records of the write-ahead log
//   - snappb: the envelope of a snapshot file
//   - leasepb: lease records in the backend and the member-to-member lease query
//   - integritypb: the service by which a member gets its data anew
//   - v3lockpb, v3electionpb: the services of locks and elections, with their JSON gateway (gateway.yaml names the paths)
//   - insightpb: a look into a member, a service that etcd has not
//   - backuppb: the feed of a member's log for backups, and what an archive of it is made of
//
// All but integritypb and the last two are field for field those of etcd 3.7. What is on disk has package names of its own; services have etcd's, which
// clients call them by.
// After editing a .proto file run `make generate` (needs protoc and the plugins that it names).
package api
