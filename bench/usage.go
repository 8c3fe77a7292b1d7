package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// meter watches the processor time and memory of processes, as Linux shows them in /proc.
type meter struct {
	pids []int
	cpu  float64
	own  float64
	peak int64
	quit chan struct{}
	done chan struct{}
}

func startMeter(pids []int) *meter {
	m := &meter{pids: pids, cpu: totalCPU(pids), own: ownCPU(), quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(m.done)
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			m.peak = max(m.peak, residentBytes(pids))
			select {
			case <-t.C:
			case <-m.quit:
				return
			}
		}
	}()
	return m
}

// end waits until the processes rest, so that what a run left for them to do in the background is on its account.
func (m *meter) end(ctx context.Context) (own float64, _ *Usage) {
	own = ownCPU() - m.own
	rest(ctx, m.pids)
	close(m.quit)
	<-m.done
	if len(m.pids) == 0 {
		return own, nil
	}
	return own, &Usage{CPUSeconds: totalCPU(m.pids) - m.cpu, PeakBytes: m.peak}
}

// Processes rest when they take less than restShare of a processor over restStep. It is not waited for longer than
// restLimit.
const (
	restStep  = 200 * time.Millisecond
	restShare = 0.15
	restLimit = 10 * time.Second
)

// rest waits until processes have little to do.
func rest(ctx context.Context, pids []int) {
	if len(pids) == 0 {
		return
	}
	t := time.NewTicker(restStep)
	defer t.Stop()
	last := totalCPU(pids)
	for start := time.Now(); time.Since(start) < restLimit; {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now := totalCPU(pids)
		if now-last < restShare*restStep.Seconds()*float64(len(pids)) {
			return
		}
		last = now
	}
}

func ownCPU() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// clockTicks is how many ticks of /proc make a second; Linux has it fixed for programs.
const clockTicks = 100

// totalCPU is the processor time of processes, as far as they live.
func totalCPU(pids []int) (sum float64) {
	for _, pid := range pids {
		s, _ := cpuSeconds(pid)
		sum += s
	}
	return sum
}

func cpuSeconds(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("/proc is not understood")
	}
	user, uerr := strconv.ParseFloat(fields[11], 64)
	system, serr := strconv.ParseFloat(fields[12], 64)
	return (user + system) / clockTicks, errors.Join(uerr, serr)
}

func residentBytes(pids []int) (sum int64) {
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		if fields := strings.Fields(string(data)); len(fields) > 1 {
			pages, _ := strconv.ParseInt(fields[1], 10, 64)
			sum += pages * int64(os.Getpagesize())
		}
	}
	return sum
}
