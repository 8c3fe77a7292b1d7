package imagectl

import (
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/keelson-io/keelson/orchestrator/node/images"
)

// progressEvery is how often progress is shown.
const progressEvery = 200 * time.Millisecond

// progress shows how far a transfer is, in one line.
type progress struct {
	w     io.Writer
	last  time.Time
	shown bool
	parts map[string]images.Progress
}

// pull takes the progress of one layer.
func (p *progress) pull(l images.Progress) {
	if p.parts == nil {
		p.parts = map[string]images.Progress{}
	}
	p.parts[l.Layer.String()] = l
	var done, total int64
	for _, part := range p.parts {
		done += part.Received
		total += part.Total
	}
	p.bytes(done, total)
}

// bytes takes the progress of all.
func (p *progress) bytes(done, total int64) {
	if time.Since(p.last) < progressEvery && done < total || p.w == nil {
		return
	}
	p.last, p.shown = time.Now(), true
	_, _ = fmt.Fprintf(p.w, "\r%s of %s  ", humanize.Bytes(uint64(done)), humanize.Bytes(uint64(total)))
}

// end ends the line.
func (p *progress) end() {
	if p.shown {
		_, _ = fmt.Fprintln(p.w)
	}
}
