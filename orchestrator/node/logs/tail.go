package logs

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
)

// tailBlock is how much of a file is read at once from its end, in bytes.
const tailBlock = 64 << 10

// ends says whether an entry is the last of a line. What cannot be read is none.
func ends(line []byte) bool {
	e, err := Parse(line)
	return err == nil && !e.Partial
}

// tailOf finds where the last n lines of a file begin, and how many of them are in it. A line of several parts is one.
func tailOf(f *os.File, n int64) (offset, found int64, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	var rest []byte // the beginning of the block behind, which belongs to a line that begins before it
	last := end     // where the line behind the newest newline that was seen begins
	for end > 0 {
		begin := max(0, end-tailBlock)
		block := make([]byte, end-begin, int(end-begin)+len(rest))
		if _, err := f.ReadAt(block, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		block = append(block, rest...)
		for {
			body := bytes.TrimSuffix(block, []byte{'\n'})
			i := bytes.LastIndexByte(body, '\n')
			if i < 0 {
				break
			}
			if ends(block[i+1:]) {
				if found++; found > n {
					return last, n, nil
				}
			}
			last = begin + int64(i) + 1
			block = block[:i+1]
		}
		rest, end = block, begin
	}
	if len(rest) > 0 && ends(rest) {
		if found++; found > n {
			return last, n, nil
		}
	}
	return 0, found, nil
}

// linesOf counts the lines in what can only be read forward.
func linesOf(r io.Reader) (n int64, err error) {
	err = eachLine(bufio.NewReader(r), func(line []byte) error {
		if ends(line) {
			n++
		}
		return nil
	})
	return n, err
}

// eachLine calls do with every line, also with a last one that has no end.
func eachLine(r *bufio.Reader, do func(line []byte) error) error {
	var long []byte
	for {
		b, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = append(long, b...)
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return err
		}
		if len(long) > 0 {
			long = append(long, b...)
			b = long
		}
		if len(b) > 0 {
			if err := do(b); err != nil {
				return err
			}
		}
		if err != nil {
			return nil //nolint:nilerr // it is the end
		}
		long = long[:0]
	}
}
