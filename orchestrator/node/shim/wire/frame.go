package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// MaxFrame bounds the JSON of a frame, in bytes.
const MaxFrame = 4 << 20

// headerSize is the length that a frame begins with, in bytes.
const headerSize = 4

// Encode makes a frame of a message.
func Encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	if len(body) > MaxFrame {
		return nil, fmt.Errorf("wire: a message of %d bytes passes the limit of %d", len(body), MaxFrame)
	}
	frame := make([]byte, headerSize, headerSize+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	return append(frame, body...), nil
}

// Decode reads one frame. It returns io.EOF if there is none, and io.ErrUnexpectedEOF if the reader ends inside one.
func Decode(r io.Reader, v any) error {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	return decodeBody(r, header, v)
}

func decodeBody(r io.Reader, header [headerSize]byte, v any) error {
	size := binary.BigEndian.Uint32(header[:])
	if size > MaxFrame {
		return fmt.Errorf("wire: a frame of %d bytes passes the limit of %d", size, MaxFrame)
	}
	// What the header claims is not believed before it arrives: the buffer grows with what was read.
	body, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err != nil {
		return err
	}
	if len(body) < int(size) {
		return io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	return nil
}

// Conn carries frames and files over a unix socket.
type Conn struct {
	*net.UnixConn
}

// Receive reads one message, and the files that came with it; they are the caller's to close.
func (c Conn) Receive(v any) ([]*os.File, error) {
	var header [headerSize]byte
	oob := make([]byte, oobSize)
	n, oobn, _, _, err := c.ReadMsgUnix(header[:], oob)
	if err != nil {
		return nil, err
	}
	files, err := filesOf(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	if _, err = io.ReadFull(c, header[n:]); err == nil {
		err = decodeBody(c, header, v)
	}
	if err != nil {
		closeAll(files)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return files, nil
}

// Send writes one message with files, which stay the caller's.
func (c Conn) Send(v any, files ...*os.File) error {
	frame, err := Encode(v)
	if err != nil {
		return err
	}
	rights := rightsOf(files)
	n, _, err := c.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = c.Write(frame[n:])
	}
	return err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
