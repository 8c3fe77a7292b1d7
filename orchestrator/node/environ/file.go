package environ

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// maxEnvFile is how long a file of variables may be, in bytes.
const maxEnvFile = 1 << 20

// file finds a variable in a file of a volume.
func (r *resolution) file(ref *corev1.FileKeySelector) (value string, found bool, err error) {
	dir, err := r.environ.cfg.VolumeDir(r.pod, ref.VolumeName)
	if err != nil {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef: %w", ref.VolumeName, err)
	}
	text, err := readWithin(dir, ref.Path)
	if errors.Is(err, fs.ErrNotExist) && isTrue(ref.Optional) {
		return "", false, nil
	}
	vars := map[string]string{}
	if err == nil {
		vars, err = ParseFile(text)
	}
	if err != nil { // a container wrote the file: what is wrong with it in detail is for the node's log only
		r.environ.lg.Warn("a file of variables", zap.String("pod", r.pod.Namespace+"/"+r.pod.Name), zap.String("volume", ref.VolumeName), zap.String("path", ref.Path), zap.Error(err))
		return "", false, errors.New("couldn't parse env file")
	}
	value, found = vars[ref.Key]
	if !found && !isTrue(ref.Optional) {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return value, found, nil
}

// readWithin reads a regular file below dir. Links that lead out of dir, pipes and files that are too long are errors.
func readWithin(dir, path string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxEnvFile {
		return "", fmt.Errorf("%s is longer than %d bytes", path, maxEnvFile)
	}
	return string(b), nil
}

// ParseFile reads a file of variables. It takes a subset of a shell's syntax: NAME='value' with the value in single quotes
// and taken as it is, over several lines if need be; blank lines and comments, which may follow a value too. No space stands
// before the equals sign. Of two of the same name the first wins.
func ParseFile(text string) (map[string]string, error) {
	vars := map[string]string{}
	for line := 1; text != ""; {
		trimmed := strings.TrimLeft(text, " \t\r")
		if trimmed == "" || trimmed[0] == '\n' || trimmed[0] == '#' {
			_, text, _ = strings.Cut(trimmed, "\n")
			line++
			continue
		}
		statement, _, _ := strings.Cut(trimmed, "\n")
		name, _, ok := strings.Cut(statement, "=")
		switch {
		case !ok, name == "":
			return nil, fmt.Errorf("invalid environment variable format at line %d", line)
		case strings.ContainsAny(name, " \t"):
			return nil, fmt.Errorf("invalid environment variable format at line %d: whitespace before '=' is not allowed", line)
		}
		quoted, ok := strings.CutPrefix(trimmed[len(name)+1:], "'")
		if !ok {
			return nil, fmt.Errorf("invalid environment variable format at line %d: value must be enclosed in single quotes", line)
		}
		value, rest, ok := strings.Cut(quoted, "'")
		if !ok {
			return nil, fmt.Errorf("invalid environment variable format at line %d: the quote is not closed", line)
		}
		line += strings.Count(value, "\n") + 1
		tail, next, _ := strings.Cut(rest, "\n")
		if after := strings.TrimLeft(tail, " \t\r"); after != "" && (after[0] != '#' || after == tail) {
			return nil, fmt.Errorf("invalid environment variable format at line %d: unexpected content after closing quote", line-1)
		}
		if _, twice := vars[name]; !twice {
			vars[name] = value
		}
		text = next
	}
	return vars, nil
}
