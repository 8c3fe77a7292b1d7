package resident

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mapping is memory of this process that a file is mapped into.
type mapping struct {
	start, end uintptr
	kilobytes  int // resident
}

// unmap gives back the pages of the executable.
func unmap() error {
	maps, err := executable()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range maps {
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); e != 0 {
			errs = append(errs, fmt.Errorf("resident: %w", e))
		}
	}
	return errors.Join(errs...)
}

// executable finds where the executable is mapped, without what was written to: such pages are no longer the file's, and would be lost.
func executable() ([]mapping, error) {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("resident: %w", err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil, fmt.Errorf("resident: %w", err)
	}
	defer f.Close()
	var maps []mapping
	var m *mapping
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		switch {
		case len(fields) > 1 && fields[0] == "Rss:" && m != nil:
			m.kilobytes, _ = strconv.Atoi(fields[1])
		case len(fields) > 1 && fields[0] == "Anonymous:" && m != nil && fields[1] == "0":
			maps = append(maps, *m)
		case len(fields) >= 6 && strings.Contains(fields[0], "-"):
			m = nil
			if strings.Join(fields[5:], " ") == path && !strings.Contains(fields[1], "w") {
				m = &mapping{}
				if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.start, &m.end); err != nil {
					return nil, fmt.Errorf("resident: /proc/self/smaps is not understood: %w", err)
				}
			}
		case len(fields) > 0 && !strings.HasSuffix(fields[0], ":"):
			m = nil // memory that is no file's
		}
	}
	return maps, nil
}
