package transport

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func entry(term, index uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(term), Index: new(index), Data: []byte(data)}
}

func message(typ raftpb.MessageType, from, to uint64) *raftpb.Message {
	return &raftpb.Message{Type: typ.Enum(), From: new(from), To: new(to), Term: new(uint64(5))}
}

func appendMessage(term, logTerm, index, commit uint64, ents ...*raftpb.Entry) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(term), LogTerm: new(logTerm),
		Index: new(index), Commit: new(commit), Entries: ents,
	}
}

func requireEqual(t *testing.T, want, got *raftpb.Message) {
	t.Helper()
	if !proto.Equal(want, got) {
		require.Equal(t, want.String(), got.String())
		t.Fatalf("messages differ: %v, %v", want, got)
	}
}

// appends is a run of appends as a leader sends them: a probe, then a predictable sequence, a jump, another term.
func appends() []*raftpb.Message {
	return []*raftpb.Message{
		appendMessage(5, 4, 9, 9, entry(5, 10, "first of the term")),
		appendMessage(5, 5, 10, 9, entry(5, 11, "a"), entry(5, 12, strings.Repeat("b", 3<<20))),
		newLinkHeartbeat(),
		appendMessage(5, 5, 12, 11),
		appendMessage(5, 5, 12, 12, entry(5, 13, "")),
		appendMessage(5, 5, 10, 12, entry(5, 11, "again")),
		appendMessage(5, 5, 11, 12),
		appendMessage(6, 5, 11, 12, entry(6, 12, "c")),
		appendMessage(6, 6, 12, 12, entry(6, 13, "d")),
		message(raftpb.MsgHeartbeat, 1, 2),
	}
}

func encodeAll(t *testing.T, enc encoder, msgs []*raftpb.Message) []byte {
	t.Helper()
	var wire []byte
	for _, m := range msgs {
		var err error
		wire, err = enc.encode(wire, m)
		require.NoError(t, err)
	}
	return wire
}

func decodeAll(t *testing.T, dec decoder, msgs []*raftpb.Message, bytes int) {
	t.Helper()
	for _, want := range msgs {
		got, n, err := dec.decode()
		require.NoError(t, err)
		requireEqual(t, want, got)
		bytes -= n
	}
	_, _, err := dec.decode()
	require.ErrorIs(t, err, io.EOF)
	require.Zero(t, bytes, "sizes add up to the bytes on the wire")
}

func TestCodecsRoundTrip(t *testing.T) {
	msgs := appends()
	wire := encodeAll(t, messageEncoder{}, msgs)
	decodeAll(t, newMessageDecoder(iotest.HalfReader(bytes.NewReader(wire)), maxMessageBytes), msgs, len(wire))

	wire = encodeAll(t, &msgAppEncoder{}, msgs)
	decodeAll(t, newMsgAppDecoder(iotest.HalfReader(bytes.NewReader(wire)), 1, 2), msgs, len(wire))
}

func TestPredictableAppendsAreShort(t *testing.T) {
	enc := &msgAppEncoder{}
	for i, want := range []byte{2, 1, 0, 1, 1, 2, 1, 2, 1, 2} {
		wire, err := enc.encode(nil, appends()[i])
		require.NoError(t, err)
		require.Equal(t, want, wire[0], "message %d", i)
	}
}

// TestWireBytes pins the bytes that etcd writes.
func TestWireBytes(t *testing.T) {
	at := func(enc encoder, m *raftpb.Message) string {
		wire, err := enc.encode(nil, m)
		require.NoError(t, err)
		return hex.EncodeToString(wire)
	}
	require.Equal(t, "0000000000000002"+"0808", at(messageEncoder{}, newLinkHeartbeat()))
	require.Equal(t, "0000000000000008"+"0804"+"1002"+"1801"+"2005", at(messageEncoder{}, message(raftpb.MsgAppResp, 1, 2)))
	require.Equal(t, "00", at(&msgAppEncoder{}, newLinkHeartbeat()))
	require.Equal(t, "01"+"0000000000000001"+"0000000000000009"+"0800"+"1005"+"1808"+"220178"+"0000000000000006",
		at(&msgAppEncoder{position{5, 7}}, appendMessage(5, 5, 7, 6, entry(5, 8, "x"))))
	require.Equal(t, "02"+"000000000000000e"+"0803"+"1002"+"1801"+"2005"+"2804"+"3007"+"4006",
		at(&msgAppEncoder{}, appendMessage(5, 4, 7, 6)))
}

func TestCodecsRefuseNonsense(t *testing.T) {
	word := func(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }
	decoders := map[string]func(io.Reader) decoder{
		"message": func(r io.Reader) decoder { return newMessageDecoder(r, maxMessageBytes) },
		"msgapp":  func(r io.Reader) decoder { return newMsgAppDecoder(r, 1, 2) },
	}
	for _, c := range []struct {
		codec, name, wire string
		is                error
	}{
		{"message", "empty", "", io.EOF},
		{"message", "part of a length", "\x00\x00", io.ErrUnexpectedEOF},
		{"message", "length only", word(4), io.ErrUnexpectedEOF},
		{"message", "truncated", word(4) + "\x08", io.ErrUnexpectedEOF},
		{"message", "huge", word(math.MaxUint64), ErrTooLarge},
		{"message", "over the limit", word(maxMessageBytes + 1), ErrTooLarge},
		{"message", "not protobuf", word(2) + "\xff\xff", nil},
		{"msgapp", "unknown record", "\x03", nil},
		{"msgapp", "entries without count", "\x01", io.ErrUnexpectedEOF},
		{"msgapp", "entries without entries", "\x01" + word(1), io.ErrUnexpectedEOF},
		{"msgapp", "entries without commit", "\x01" + word(0), io.ErrUnexpectedEOF},
		{"msgapp", "too many entries", "\x01" + word(math.MaxUint64), ErrTooLarge},
		{"msgapp", "huge entry", "\x01" + word(1) + word(math.MaxInt64), ErrTooLarge},
		{"msgapp", "entry not protobuf", "\x01" + word(1) + word(1) + "\xff", nil},
		{"msgapp", "message without length", "\x02", io.ErrUnexpectedEOF},
		{"msgapp", "huge message", "\x02" + word(1<<62), ErrTooLarge},
	} {
		t.Run(c.codec+" "+c.name, func(t *testing.T) {
			m, _, err := decoders[c.codec](strings.NewReader(c.wire)).decode()
			require.Nil(t, m)
			require.Error(t, err)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
		})
	}
}

func TestMemoryFollowsWhatArrives(t *testing.T) {
	wire := binary.BigEndian.AppendUint64(nil, maxMessageBytes)
	wire = append(wire, make([]byte, 100)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := newMessageDecoder(bytes.NewReader(wire), maxMessageBytes).decode()
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func TestEncodingDoesNotAllocate(t *testing.T) {
	m := appendMessage(5, 5, 7, 6, entry(5, 8, strings.Repeat("x", 300)))
	buf := make([]byte, 0, 4096)
	for name, enc := range map[string]encoder{"message": messageEncoder{}, "msgapp": &msgAppEncoder{}} {
		require.Zero(t, testing.AllocsPerRun(100, func() {
			_, err := enc.encode(buf, m)
			require.NoError(t, err)
		}), name)
	}
}

// refuseOrReturn decodes until the end: whatever comes, a decoder must return messages that can be encoded again.
func refuseOrReturn(t *testing.T, dec decoder, enc encoder) {
	for range 1000 {
		m, _, err := dec.decode()
		if err != nil {
			require.Nil(t, m)
			return
		}
		_, err = enc.encode(nil, m)
		require.NoError(t, err)
	}
}

func FuzzMessageDecoder(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x02\x08\x08"))
	for _, m := range appends() {
		if proto.Size(m) < 1000 {
			wire, _ := messageEncoder{}.encode(nil, m)
			f.Add(wire)
		}
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		refuseOrReturn(t, newMessageDecoder(bytes.NewReader(wire), maxMessageBytes), messageEncoder{})
	})
}

func FuzzMsgAppDecoder(f *testing.F) {
	f.Add([]byte("\x00"))
	var all []byte
	enc := &msgAppEncoder{}
	for _, m := range appends() {
		if proto.Size(m) < 1000 {
			all, _ = enc.encode(all, m)
		}
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, wire []byte) {
		refuseOrReturn(t, newMsgAppDecoder(bytes.NewReader(wire), 1, 2), &msgAppEncoder{})
	})
}
