package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	code := 3
	var stream bytes.Buffer
	sent := []Reply{{}, {Pid: 7, States: []State{{ID: "a", Status: Running}}}, {Exit: &code}, {Error: "no", Code: NotFound}}
	for _, m := range sent {
		frame, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		stream.Write(frame)
	}
	for i, want := range sent {
		var got Reply
		if err := Decode(&stream, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%d: %+v %v", i, got, err)
		}
	}
	var none Reply
	if err := Decode(&stream, &none); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestBadFrames(t *testing.T) {
	long := binary.BigEndian.AppendUint32(nil, MaxFrame+1)
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"half a header": {[]byte{0, 0}, "unexpected EOF"},
		"half a body":   {[]byte{0, 0, 0, 9, '{'}, "unexpected EOF"},
		"too long":      {long, "passes the limit"},
		"no JSON":       {[]byte{0, 0, 0, 1, '{'}, "wire: "},
		"another type":  {append([]byte{0, 0, 0, 2}, "[]"...), "wire: "},
	} {
		var m Reply
		if err := Decode(bytes.NewReader(tc.data), &m); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Encode(Reply{Error: strings.Repeat("x", MaxFrame)}); err == nil {
		t.Error("a message that is too long was encoded")
	}
}

// FuzzDecode feeds the decoder what no client sends. What it takes, it takes again after it was encoded.
func FuzzDecode(f *testing.F) {
	for _, m := range []Request{
		{Op: OpPing}, {Op: OpSignal, ID: "c", Signal: 9},
		{Op: OpExec, ID: "c", Exec: &ExecSpec{Args: []string{"a"}}, Streams: Streams{Stdin: true}},
		{Op: OpSandbox, Sandbox: &SandboxSpec{NetNS: "/n", Sysctls: map[string]string{"a": "b"}}},
	} {
		frame, err := Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		var got Request
		if Decode(bytes.NewReader(data), &got) != nil {
			return
		}
		frame, err := Encode(got)
		if err != nil {
			t.Fatal(err)
		}
		var again Request
		if err := Decode(bytes.NewReader(frame), &again); err != nil {
			t.Fatal(err)
		}
		if n := again.Streams.Count(); n < 0 || n > 3 {
			t.Errorf("%d streams", n)
		}
		second, err := Encode(again)
		if err != nil || !bytes.Equal(frame, second) {
			t.Errorf("%q is not %q: %v", second, frame, err)
		}
	})
}

// TestFiles sends open files along.
func TestFiles(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dialed, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	a, b := Conn{dialed}, Conn{accepted}
	defer func() { _ = b.Close() }()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Send(Request{Op: OpPing}, w); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	var m Request
	files, err := b.Receive(&m)
	if err != nil || len(files) != 1 || m.Op != OpPing {
		t.Fatalf("%+v, %d files, %v", m, len(files), err)
	}
	out, err := Pollable(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteString("through"); err != nil {
		t.Fatal(err)
	}
	_ = out.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "through" {
		t.Errorf("%q %v", got, err)
	}
	_ = r.Close()
	if err := a.Send(Request{}); err != nil {
		t.Fatal(err)
	}
	if files, err := b.Receive(&m); err != nil || len(files) != 0 {
		t.Errorf("%d files, %v", len(files), err)
	}
	_ = a.Close()
	if _, err := b.Receive(&m); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}
