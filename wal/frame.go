package wal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Kinds of records.
const (
	kindMetadata = iota + 1
	kindEntry
	kindState
	kindCRC
	kindSnapshot
)

const (
	frameHeader = 8
	sectorBytes = 512 // what a disk writes as a whole
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encoder appends frames to a buffer.
type encoder struct {
	buf []byte
	crc uint32
	msg []byte // scratch
}

// append adds a record. Without data (nil) the record has none.
func (e *encoder) append(kind int, data []byte) {
	e.crc = crc32.Update(e.crc, castagnoli, data)
	start := len(e.buf)
	e.buf = append(e.buf, 0, 0, 0, 0, 0, 0, 0, 0)
	e.buf = append(e.buf, 1<<3|byte(protowire.VarintType), byte(kind), 2<<3|byte(protowire.VarintType))
	e.buf = protowire.AppendVarint(e.buf, uint64(e.crc))
	if data != nil {
		e.buf = append(e.buf, 3<<3|byte(protowire.BytesType))
		e.buf = protowire.AppendBytes(e.buf, data)
	}
	size := len(e.buf) - start - frameHeader
	length, pad := frameLength(size)
	e.buf = append(e.buf, make([]byte, pad)...)
	binary.LittleEndian.PutUint64(e.buf[start:], length)
}

// frameLength is the header of a frame for a record of a size, and the padding.
func frameLength(size int) (length uint64, pad int) {
	length = uint64(size)
	if pad = -size & 7; pad > 0 {
		length |= uint64(0x80|pad) << 56
	}
	return length, pad
}

// message adds a record whose data is a message.
func (e *encoder) message(kind int, m proto.Message) (err error) {
	if e.msg, err = (proto.MarshalOptions{}).MarshalAppend(e.msg[:0], m); err != nil {
		return fmt.Errorf("wal: %w", err)
	}
	e.append(kind, e.msg)
	return nil
}

// record is a decoded record. Its data is valid until the next one.
type record struct {
	kind   int
	crc    uint32
	data   []byte
	offset int64  // of its frame in the segment
	before uint32 // the checksum up to it
}

// errTorn says that the end of the last segment was being written when the member died.
var errTorn = errors.New("torn write")

// decoder reads the frames of one segment.
type decoder struct {
	r     *bufio.Reader
	size  int64 // of what there is to read
	valid int64 // end of the last good frame
	crc   uint32
	last  bool // segment: only there may a write be torn
	lost  bool // the file cannot be read: nothing is known of what it holds
	buf   []byte
}

func newDecoder(r io.Reader, size int64, crc uint32, last bool, buffer int) *decoder {
	return &decoder{r: bufio.NewReaderSize(r, int(min(int64(buffer), size))), size: size, crc: crc, last: last}
}

// next returns the next record; io.EOF at the end of what was written, errTorn, or what is wrong.
func (d *decoder) next() (record, error) {
	var header [frameHeader]byte
	n, err := io.ReadFull(d.r, header[:])
	length := binary.LittleEndian.Uint64(header[:])
	switch {
	case err == io.EOF, err == nil && length == 0:
		return record{}, io.EOF
	case err == io.ErrUnexpectedEOF:
		return record{}, d.torn(fmt.Errorf("%d bytes of a frame header", n))
	case err != nil:
		return record{}, d.unreadable(err)
	}
	size := int64(length &^ (0xff << 56))
	good, padding := frameLength(int(size))
	pad := int64(padding)
	if length != good { // never torn: it is within a sector
		return record{}, fmt.Errorf("%#x is no frame header", length)
	}
	if size > d.size-d.valid-pad-frameHeader {
		return record{}, d.overrun(size)
	}
	if int64(cap(d.buf)) < size+pad {
		d.buf = make([]byte, size+pad)
	}
	d.buf = d.buf[:size+pad]
	if _, err := io.ReadFull(d.r, d.buf); err == io.EOF || err == io.ErrUnexpectedEOF {
		return record{}, d.torn(err)
	} else if err != nil {
		return record{}, d.unreadable(err)
	}
	before := d.crc
	rec, err := d.check(d.buf[:size])
	if err != nil {
		if d.hasEmptySector() && !d.wrongLength(d.buf, size) {
			err = d.torn(err)
		}
		return record{}, err
	}
	rec.offset, rec.before = d.valid, before
	d.valid += frameHeader + size + pad
	return rec, nil
}

// overrun judges a frame that goes on behind the end of the file: a write beyond the space that was reserved, which was
// torn before the file had its size.
func (d *decoder) overrun(size int64) error {
	err := fmt.Errorf("a frame of %d bytes does not fit into the file of %d bytes", size, d.size)
	if !d.last {
		return err
	}
	rest, rerr := io.ReadAll(d.r)
	if rerr != nil {
		return d.unreadable(rerr)
	}
	if d.wrongLength(rest, size) {
		return err
	}
	return d.torn(err)
}

// wrongLength says whether b begins with a whole record that has another size than its frame says. Then it is the length
// that was damaged: what follows may be good, and must not be cut off as a torn write.
func (d *decoder) wrongLength(b []byte, size int64) bool {
	rec, n, err := parseRecord(b, true)
	return err == nil && rec.data != nil && int64(n) != size && crc32.Update(d.crc, castagnoli, rec.data) == rec.crc
}

func (d *decoder) unreadable(err error) error {
	d.lost = true
	return err
}

func (d *decoder) torn(err error) error {
	if !d.last {
		return err
	}
	return fmt.Errorf("%w: %w", errTorn, err)
}

// check parses a record and compares its checksum.
func (d *decoder) check(b []byte) (record, error) {
	rec, _, err := parseRecord(b, false)
	if err != nil {
		return record{}, err
	}
	if rec.kind == kindCRC {
		if d.crc != 0 && d.crc != rec.crc {
			return record{}, fmt.Errorf("checksum %08x carried over, %08x expected", rec.crc, d.crc)
		}
		d.crc = rec.crc
		return rec, nil
	}
	if sum := crc32.Update(d.crc, castagnoli, rec.data); sum != rec.crc {
		return record{}, fmt.Errorf("checksum is %08x, %08x is recorded", sum, rec.crc)
	}
	d.crc = rec.crc
	return rec, nil
}

// parseRecord parses a record and returns its length: all of b, or, of a prefix, up to the end of its data.
func parseRecord(b []byte, prefix bool) (rec record, length int, err error) {
	for length < len(b) && !(prefix && rec.data != nil) {
		num, typ, n := protowire.ConsumeTag(b[length:])
		if n < 0 {
			return rec, length, fmt.Errorf("not a record: %w", protowire.ParseError(n))
		}
		length += n
		var v uint64
		switch {
		case num <= 2 && typ == protowire.VarintType:
			v, n = protowire.ConsumeVarint(b[length:])
			if num == 1 {
				rec.kind = int(v)
			} else {
				rec.crc = uint32(v)
			}
		case num == 3 && typ == protowire.BytesType:
			rec.data, n = protowire.ConsumeBytes(b[length:])
		default:
			n = protowire.ConsumeFieldValue(num, typ, b[length:])
		}
		if n < 0 {
			return rec, length, fmt.Errorf("not a record: %w", protowire.ParseError(n))
		}
		length += n
	}
	return rec, length, nil
}

// hasEmptySector says whether a whole sector of the frame just read is zero: then it was never written.
func (d *decoder) hasEmptySector() bool {
	at, b := d.valid+frameHeader, d.buf
	for len(b) > 0 {
		n := min(int64(len(b)), sectorBytes-at%sectorBytes)
		zero := true
		for _, c := range b[:n] {
			zero = zero && c == 0
		}
		if zero {
			return true
		}
		at, b = at+n, b[n:]
	}
	return false
}
