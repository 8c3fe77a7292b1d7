package transport

import (
	"encoding/binary"
	"fmt"
	"io"

	"go.etcd.io/raft/v3/raftpb"
)

// Records of the msgapp stream; see the package comment.
const (
	recordHeartbeat byte = 0
	recordEntries   byte = 1
	recordMessage   byte = 2
)

// entryOverhead is what an entry of a recordEntries counts for besides its bytes, so that many small entries cannot take
// much more memory than one large one.
const entryOverhead = 128

// position is what both ends of a msgapp stream know: where the next append continues if nothing unexpected happens.
type position struct {
	term, index uint64
}

// after sets the position behind a message that was sent whole.
func (p *position) after(m *raftpb.Message) {
	p.term, p.index = m.GetTerm(), m.GetIndex()
	if ents := m.GetEntries(); len(ents) > 0 {
		p.index = ents[len(ents)-1].GetIndex()
	}
}

// predicts reports whether m follows from the position but for its entries and commit index.
func (p *position) predicts(m *raftpb.Message) bool {
	return m.GetType() == raftpb.MsgApp && m.GetIndex() == p.index && m.GetLogTerm() == p.term && m.GetTerm() == p.term &&
		len(m.GetContext()) == 0
}

// msgAppEncoder writes the msgapp stream. It belongs to one connection.
type msgAppEncoder struct {
	pos position
}

func (e *msgAppEncoder) encode(dst []byte, m *raftpb.Message) ([]byte, error) {
	switch {
	case isLinkHeartbeat(m):
		return append(dst, recordHeartbeat), nil
	case e.pos.predicts(m):
		dst = append(dst, recordEntries)
		dst = binary.BigEndian.AppendUint64(dst, uint64(len(m.GetEntries())))
		var err error
		for _, ent := range m.GetEntries() {
			if dst, err = appendSized(dst, ent); err != nil {
				return nil, err
			}
		}
		e.pos.index += uint64(len(m.GetEntries()))
		return binary.BigEndian.AppendUint64(dst, m.GetCommit()), nil
	default:
		dst, err := appendSized(append(dst, recordMessage), m)
		e.pos.after(m)
		return dst, err
	}
}

// msgAppDecoder reads the msgapp stream. It belongs to one connection.
type msgAppDecoder struct {
	wire     wireReader
	from, to uint64
	pos      position
	limit    uint64
}

func newMsgAppDecoder(r io.Reader, from, to uint64) *msgAppDecoder {
	return &msgAppDecoder{wire: wireReader{r: r}, from: from, to: to, limit: maxMessageBytes}
}

func (d *msgAppDecoder) decode() (*raftpb.Message, int, error) {
	if _, err := io.ReadFull(d.wire.r, d.wire.word[:1]); err != nil {
		return nil, 0, err
	}
	switch kind := d.wire.word[0]; kind {
	case recordHeartbeat:
		return newLinkHeartbeat(), 1, nil
	case recordEntries:
		m, n, err := d.entries()
		return m, n + 1, whole(err)
	case recordMessage:
		m := &raftpb.Message{}
		n, err := d.wire.sized(m, d.limit)
		if err != nil {
			return nil, 0, whole(err)
		}
		d.pos.after(m)
		return m, n + 1, nil
	default:
		return nil, 0, fmt.Errorf("transport: record of unknown type %d on the msgapp stream", kind)
	}
}

func (d *msgAppDecoder) entries() (*raftpb.Message, int, error) {
	m := &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: new(d.from), To: new(d.to),
		Term: new(d.pos.term), LogTerm: new(d.pos.term), Index: new(d.pos.index),
	}
	count, err := d.wire.uint64()
	if err != nil {
		return nil, 0, err
	}
	if count > d.limit/entryOverhead {
		return nil, 0, fmt.Errorf("%w: %d entries", ErrTooLarge, count)
	}
	m.Entries = make([]*raftpb.Entry, 0, min(count, 1024))
	size, room := 16, d.limit-count*entryOverhead
	for range count {
		ent := &raftpb.Entry{}
		n, err := d.wire.sized(ent, room)
		if err != nil {
			return nil, 0, err
		}
		m.Entries = append(m.Entries, ent)
		size += n
		room -= min(room, uint64(n))
	}
	d.pos.index += count
	commit, err := d.wire.uint64()
	if err != nil {
		return nil, 0, err
	}
	m.Commit = new(commit)
	return m, size, nil
}
