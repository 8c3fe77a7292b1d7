package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

const (
	// maxMessageBytes bounds one message on a stream or in the body of a POST, as in etcd.
	maxMessageBytes = 512 << 20
	// maxSnapshotMessageBytes bounds the message before the database in the body of /raft/snapshot, as in etcd.
	maxSnapshotMessageBytes = 64 << 20
	// growBytes is how much memory a length on the wire gets before as many bytes have arrived.
	growBytes = 64 << 10
	// keepBytes is the largest buffer that is kept for the next message.
	keepBytes = 1 << 20
)

// ErrTooLarge says that the length of a message exceeds what a peer may send.
var ErrTooLarge = errors.New("transport: message too large")

// encoder turns messages into the bytes of a stream.
type encoder interface {
	// encode appends m to dst. After an error dst must not be sent.
	encode(dst []byte, m *raftpb.Message) ([]byte, error)
}

// decoder reads the messages of a stream.
type decoder interface {
	// decode returns the next message and its size on the wire. io.EOF means that the stream ended between two messages.
	decode() (*raftpb.Message, int, error)
}

// newLinkHeartbeat returns the message that keeps an idle stream alive. Messages of raft always name sender and receiver.
func newLinkHeartbeat() *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum()}
}

func isLinkHeartbeat(m *raftpb.Message) bool {
	return m.GetType() == raftpb.MsgHeartbeat && m.GetFrom() == 0 && m.GetTo() == 0
}

// appendSized appends a message after its length.
func appendSized(dst []byte, m proto.Message) ([]byte, error) {
	start := len(dst)
	dst = append(dst, make([]byte, 8)...)
	dst, err := proto.MarshalOptions{}.MarshalAppend(dst, m)
	if err != nil {
		return nil, fmt.Errorf("transport: encode: %w", err)
	}
	binary.BigEndian.PutUint64(dst[start:], uint64(len(dst)-start-8))
	return dst, nil
}

// messageEncoder writes the message stream.
type messageEncoder struct{}

func (messageEncoder) encode(dst []byte, m *raftpb.Message) ([]byte, error) {
	return appendSized(dst, m)
}

// wireReader reads lengths and counted bytes. It owns a buffer that it reuses.
type wireReader struct {
	r    io.Reader
	buf  []byte
	word [8]byte
}

// whole says that the stream ended inside of a record.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (w *wireReader) uint64() (uint64, error) {
	if _, err := io.ReadFull(w.r, w.word[:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(w.word[:]), nil
}

// bytes reads n bytes, valid until the next call. Memory grows with what arrives, whatever n says.
func (w *wireReader) bytes(n uint64) ([]byte, error) {
	buf := w.buf[:0]
	for uint64(len(buf)) < n {
		have := len(buf)
		if have == cap(buf) {
			buf = slices.Grow(buf, int(min(n-uint64(have), max(growBytes, uint64(have)))))
		}
		buf = buf[:min(uint64(cap(buf)), n)]
		if _, err := io.ReadFull(w.r, buf[have:]); err != nil {
			return nil, whole(err)
		}
	}
	if cap(buf) <= keepBytes {
		w.buf = buf
	}
	return buf, nil
}

// sized reads a message after its length.
func (w *wireReader) sized(m proto.Message, limit uint64) (int, error) {
	n, err := w.uint64()
	if err != nil {
		return 0, err
	}
	if n > limit {
		return 0, fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
	}
	buf, err := w.bytes(n)
	if err != nil {
		return 0, err
	}
	if err := proto.Unmarshal(buf, m); err != nil {
		return 0, fmt.Errorf("transport: decode: %w", err)
	}
	return len(buf) + 8, nil
}

// messageDecoder reads the message stream, and the message at the head of a snapshot.
type messageDecoder struct {
	wire  wireReader
	limit uint64
}

func newMessageDecoder(r io.Reader, limit uint64) *messageDecoder {
	return &messageDecoder{wire: wireReader{r: r}, limit: limit}
}

func (d *messageDecoder) decode() (*raftpb.Message, int, error) {
	m := &raftpb.Message{}
	n, err := d.wire.sized(m, d.limit)
	if err != nil {
		return nil, 0, err
	}
	return m, n, nil
}
