// Package transport carries raft messages between the members of a cluster: etcd's peer protocol, as etcd 3.4 to 3.7 speak
// it, so that a cluster may be of both kinds of members.
//
// # Model
//
// The protocol is HTTP/1. To every peer a member opens two streams, GETs whose answer never ends and on which the *other*
// side sends its messages; so there are two streams in each direction:
//
//	GET  /raft/stream/msgapp/<id>   appends (MsgApp)
//	GET  /raft/stream/message/<id>  all other messages, and appends while the first is down
//	POST /raft                      one message; the fallback without streams
//	POST /raft/snapshot             a MsgSnap followed by the database
//	GET  /raft/probing              round trip time
//
// <id> is the ID of the member that asks. IDs are in hexadecimal. Every request names the sender (X-Server-From), its
// cluster (X-Etcd-Cluster-ID), its version and the lowest version it works with (X-Server-Version, X-Min-Cluster-Version) and
// its own URLs (X-PeerURLs); a stream also whom it is meant for (X-Raft-To). Refusals: 412 for another cluster or version or
// a stream for someone else, 410 for a stream to a removed member, 403 for a message from one, 404 for a stream to a member
// that is not known. A sender that is not known becomes a remote: it can be sent single messages, and so learn where the
// cluster is.
//
// # Bytes
//
// Numbers are 8 bytes, big endian. The message stream and the head of a snapshot are
//
//	length | raftpb.Message
//
// The msgapp stream is a sequence of records, each led by one byte:
//
//	0                                                         keeps the stream alive
//	1 | count | count times (length | raftpb.Entry) | commit  an append that both sides can predict but for its entries
//	2 | length | raftpb.Message                               any other append
//
// Both sides keep the term of the last record 2 and the index of the last entry sent. An append is sent as record 1 if
// its Term and LogTerm are that term and its Index is that index.
// An idle message stream carries a heartbeat without sender and receiver instead of record 0.
//
// # Invariants
//
//   - Messages to a peer on one stream arrive in the order in which they were given to Send, without gaps, until the stream
//     breaks. Raft is told ReportUnreachable whenever something may have been lost.
//   - Send never blocks. A stream queues 4096 messages, the pipeline 64.
//   - Nothing that a peer sends stops the process: lengths are bounded, memory grows with the bytes that arrive, malformed
//     messages end the request or the stream they came in. The members that are known only from requests are bounded too.
//   - A connection on which nothing moves for a timeout is given up, in both directions.
//   - After Stop no goroutine of the transport is left and Raft is not called any more.
//
// # Concurrency
//
// All methods of a Transport may be called from any goroutine. A stream to a peer is written by the goroutine of the
// HTTP handler that serves it, which empties its queue, encodes everything into one buffer and flushes once. A stream from
// a peer is read by a goroutine that calls Raft.Step itself; a Step that blocks makes the peer wait.
// Lock order: Transport.mu, outgoing.mu, streamConn.mu, status.mu; none is held while Raft is called.
package transport
