package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/backuppb"
)

const (
	magic       = "keelseg1"
	frameHeader = 4 + 1 + 4
	// maxFrame bounds a frame, in bytes: a chunk has a mebibyte of entries, or one larger entry.
	maxFrame  = 1 << 30
	kindHead  = 1
	kindChunk = 2
	kindEnd   = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC32-Castagnoli of an entry's data.
func Checksum(e *raftpb.Entry) uint32 { return crc32.Checksum(e.GetData(), castagnoli) }

// Writer makes a segment in memory.
type Writer struct {
	buf    bytes.Buffer
	zw     *zstd.Encoder
	frame  []byte
	head   *backuppb.SegmentHead
	end    backuppb.SegmentEnd
	before int64
	after  int64
	from   int64
	to     int64
	bytes  int
}

// NewWriter begins a segment. before is the revision before its first entry, 0: not known; since is when the entry before
// that was applied, in nanoseconds.
func NewWriter(head *backuppb.SegmentHead, before, since int64) (*Writer, error) {
	w := &Writer{head: head, before: before, from: since, to: since}
	w.end.LastIndex = head.FirstIndex - 1
	var err error
	if w.zw, err = zstd.NewWriter(&w.buf, zstd.WithEncoderConcurrency(1)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(w.zw, magic); err != nil {
		return nil, err
	}
	return w, w.write(kindHead, head)
}

// Add appends a chunk, which must begin with the entry that comes next. After an error nothing of it was added.
func (w *Writer) Add(c *backuppb.Chunk) error {
	if len(c.Entries) == 0 {
		return errors.New("a chunk without entries")
	}
	next := w.end.LastIndex + 1
	for i, e := range c.Entries {
		if want := next + uint64(i); e.GetIndex() != want {
			return fmt.Errorf("entry %d comes where entry %d should: the log has a gap", e.GetIndex(), want)
		}
	}
	if err := w.write(kindChunk, c); err != nil {
		return err
	}
	last := c.Entries[len(c.Entries)-1]
	w.end.LastIndex, w.end.LastTerm, w.end.LastCrc = last.GetIndex(), last.GetTerm(), Checksum(last)
	w.end.Chunks++
	w.after, w.to = c.Revision, max(w.to, c.TimeUnixNano)
	return nil
}

// Bytes is the size of what was added, before compression.
func (w *Writer) Bytes() int { return w.bytes }

// Close ends the segment and returns it with its description.
func (w *Writer) Close() (*Segment, []byte, error) {
	if err := w.write(kindEnd, &w.end); err != nil {
		return nil, nil, err
	}
	if err := w.zw.Close(); err != nil {
		return nil, nil, err
	}
	s := &Segment{
		Chain: w.head.Chain, First: w.head.FirstIndex, Last: w.end.LastIndex, Before: w.before, After: w.after,
		From: Milli(w.from), To: Milli(w.to), Sum: sha256.Sum256(w.buf.Bytes()), Size: int64(w.buf.Len()),
	}
	return s, w.buf.Bytes(), nil
}

// Tail is the last entry that was added.
func (w *Writer) Tail() Tail {
	return Tail{Index: w.end.LastIndex, Term: w.end.LastTerm, Crc: &w.end.LastCrc, Revision: w.after, Time: w.to}
}

// Tail is where a chain ends.
type Tail struct {
	Index, Term uint64
	Crc         *uint32 // of the entry's data, nil: not known
	Revision    int64   // after it, 0: not known
	Time        int64   // Unix, nanoseconds
}

func (w *Writer) write(kind byte, m proto.Message) error {
	b := append(w.frame[:0], make([]byte, frameHeader)...)
	b, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err != nil {
		return err
	}
	w.frame = b
	w.bytes += len(b)
	binary.LittleEndian.PutUint32(b, uint32(len(b)-frameHeader))
	b[4] = kind
	binary.LittleEndian.PutUint32(b[5:], frameSum(kind, b[frameHeader:]))
	_, err = w.zw.Write(b)
	return err
}

func frameSum(kind byte, message []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte{kind}, castagnoli), castagnoli, message)
}

// Reader reads a segment. Everything that it returns has been checked.
type Reader struct {
	zr   *zstd.Decoder
	head backuppb.SegmentHead
	end  *backuppb.SegmentEnd
	tail backuppb.SegmentEnd // of what was read
}

// ErrDamaged is in every error about contents that are not as they were written.
var ErrDamaged = errors.New("damaged")

// damaged does not wrap the reason: a reader's io.EOF must not be taken for a proper end.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// NewReader begins to read a segment. ErrDamaged.
func NewReader(r io.Reader) (*Reader, error) {
	zr, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame))
	if err != nil {
		return nil, damaged("%v", err)
	}
	rd := &Reader{zr: zr}
	if err := rd.begin(); err != nil {
		zr.Close()
		return nil, err
	}
	return rd, nil
}

func (r *Reader) begin() error {
	var start [len(magic)]byte
	if _, err := io.ReadFull(r.zr, start[:]); err != nil {
		return damaged("no segment: %v", err)
	}
	if string(start[:]) != magic {
		return damaged("no segment: it begins with %q", start[:])
	}
	kind, message, err := r.frame()
	switch {
	case err != nil:
		return err
	case kind != kindHead:
		return damaged("a frame of kind %d where the head should be", kind)
	}
	if err := proto.Unmarshal(message, &r.head); err != nil {
		return damaged("head: %v", err)
	}
	return nil
}

// Head is what the segment begins with.
func (r *Reader) Head() *backuppb.SegmentHead { return &r.head }

// Next returns the next chunk; io.EOF after the last one, if the segment is whole. ErrDamaged.
func (r *Reader) Next() (*backuppb.Chunk, error) {
	if r.end != nil {
		return nil, io.EOF
	}
	kind, message, err := r.frame()
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindChunk:
		c := &backuppb.Chunk{}
		if err := proto.Unmarshal(message, c); err != nil {
			return nil, damaged("chunk: %v", err)
		}
		return c, r.check(c)
	case kindEnd:
		return nil, r.finish(message)
	}
	return nil, damaged("a frame of the unknown kind %d", kind)
}

// check finds out whether a chunk continues what was read.
func (r *Reader) check(c *backuppb.Chunk) error {
	if len(c.Entries) == 0 {
		return damaged("a chunk without entries")
	}
	for _, e := range c.Entries {
		next := r.tail.LastIndex + 1
		if r.tail.LastIndex == 0 {
			next = r.head.FirstIndex
		}
		if e.GetIndex() != next {
			return damaged("entry %d where entry %d should be", e.GetIndex(), next)
		}
		r.tail.LastIndex, r.tail.LastTerm, r.tail.LastCrc = e.GetIndex(), e.GetTerm(), Checksum(e)
	}
	r.tail.Chunks++
	return nil
}

func (r *Reader) finish(message []byte) error {
	r.end = &backuppb.SegmentEnd{}
	if err := proto.Unmarshal(message, r.end); err != nil {
		return damaged("end: %v", err)
	}
	if !proto.Equal(r.end, &r.tail) {
		return damaged("its end says entry %d, %d chunks; there are %d, %d", r.end.LastIndex, r.end.Chunks, r.tail.LastIndex, r.tail.Chunks)
	}
	if n, err := io.Copy(io.Discard, r.zr); n > 0 || err != nil {
		return damaged("%d bytes follow its end: %v", n, err)
	}
	return io.EOF
}

// Tail is the last entry of a segment that was read to its end.
func (r *Reader) Tail() Tail {
	return Tail{Index: r.tail.LastIndex, Term: r.tail.LastTerm, Crc: &r.tail.LastCrc}
}

// Close lets go of memory.
func (r *Reader) Close() { r.zr.Close() }

// frame reads a frame. Memory is taken as the bytes come, whatever its length says.
func (r *Reader) frame() (kind byte, message []byte, err error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r.zr, h[:]); err != nil {
		return 0, nil, damaged("it ends before its end: %v", err)
	}
	n := binary.LittleEndian.Uint32(h[:])
	if n > maxFrame {
		return 0, nil, damaged("a frame of %d bytes", n)
	}
	var b bytes.Buffer
	if got, err := io.CopyN(&b, r.zr, int64(n)); err != nil {
		return 0, nil, damaged("a frame of %d bytes ends after %d: %v", n, got, err)
	}
	if frameSum(h[4], b.Bytes()) != binary.LittleEndian.Uint32(h[5:]) {
		return 0, nil, damaged("a frame's checksum is wrong")
	}
	return h[4], b.Bytes(), nil
}
