package logs

import (
	"bufio"
	"errors"
	"io"
)

// stampLayout has always as many digits, so that lines can be sorted.
const stampLayout = "2006-01-02T15:04:05.000000000Z07:00"

// errEnough says that as much was written as was asked for.
var errEnough = errors.New("logs: the limit is reached")

// printer writes entries as they are asked for.
type printer struct {
	options Options
	out     *bufio.Writer
	left    int64           // bytes that may be written yet, less than 0: any number
	within  map[string]bool // streams whose last entry was partial
}

func newPrinter(out io.Writer, o Options) *printer {
	p := &printer{options: o, out: bufio.NewWriterSize(out, 32<<10), left: -1, within: map[string]bool{}}
	if o.Limit != nil {
		p.left = max(0, *o.Limit)
	}
	return p
}

// line writes a line of a file. What is not as it should be is left out.
func (p *printer) line(line []byte) error {
	e, err := Parse(line)
	if err != nil || p.options.Stream != "" && p.options.Stream != e.Stream {
		return nil //nolint:nilerr // as documented
	}
	begins := !p.within[e.Stream]
	p.within[e.Stream] = e.Partial
	if e.Time.Before(p.options.Since) {
		return nil
	}
	if p.options.Timestamps && begins {
		if err := p.write(append(e.Time.AppendFormat(nil, stampLayout), ' ')); err != nil {
			return err
		}
	}
	if err := p.write(e.Content); err != nil || e.Partial {
		return err
	}
	return p.write([]byte{'\n'})
}

func (p *printer) write(b []byte) error {
	if p.left < 0 {
		_, err := p.out.Write(b)
		return err
	}
	if int64(len(b)) < p.left {
		p.left -= int64(len(b))
		_, err := p.out.Write(b)
		return err
	}
	if _, err := p.out.Write(b[:p.left]); err != nil {
		return err
	}
	p.left = 0
	return errEnough
}
