package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFair(t *testing.T) {
	for _, c := range []struct {
		name    string
		args    []string
		check   func(*testing.T, *Fair)
		wantErr string
	}{
		{name: "off", args: []string{"--fair-inflight=0"}, check: func(t *testing.T, f *Fair) {
			require.Equal(t, map[string]int{"writes": 0, "reads": 0, "logins": 0}, f.Inflight)
		}},
		{name: "one lane", args: []string{"--fair-inflight=reads=5"}, check: func(t *testing.T, f *Fair) {
			require.Equal(t, map[string]int{"writes": 1024, "reads": 5, "logins": 16}, f.Inflight)
		}},
		{name: "weights", args: []string{"--fair-weights=alice=4,CN=x=2, 10.0.0.1=3"}, check: func(t *testing.T, f *Fair) {
			require.Equal(t, map[string]int{"alice": 4, "CN=x": 2, "10.0.0.1": 3}, f.Weights)
		}},
		{name: "no such lane", args: []string{"--fair-inflight=walks=5"}, wantErr: `"walks" is none of logins, reads, writes`},
		{name: "no number", args: []string{"--fair-inflight=reads=many"}, wantErr: "the number must be from 0 to 1000000"},
		{name: "no pair", args: []string{"--fair-weights=alice"}, wantErr: "has not the form name=number"},
		{name: "no name", args: []string{"--fair-weights==3"}, wantErr: "has not the form name=number"},
		{name: "no weight", args: []string{"--fair-weights=alice=0"}, wantErr: "the number must be from 1"},
		{name: "twice", args: []string{"--fair-weights=alice=1,alice=2"}, wantErr: `"alice" is given twice`},
		{name: "no queue", args: []string{"--fair-queue=0"}, wantErr: "--fair-queue must be >0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse(c.args, nil)
			if c.wantErr != "" {
				require.ErrorContains(t, err, c.wantErr)
				return
			}
			require.NoError(t, err)
			c.check(t, &got.Limits.Fair)
		})
	}
}

func TestResponseBytes(t *testing.T) {
	for text, want := range map[string]int64{"auto": -1, "0": 0, "512MiB": 512 << 20, "1GB": 1e9, "4096": 4096} {
		c, err := Parse([]string{"--response-bytes-budget=" + text}, nil)
		require.NoError(t, err)
		require.Equal(t, want, c.Limits.ResponseBytes)
	}
	for _, text := range []string{"much", "-1", "20EB"} {
		_, err := Parse([]string{"--response-bytes-budget=" + text}, nil)
		require.Error(t, err, text)
	}
}

func TestAccessSample(t *testing.T) {
	for _, text := range []string{"0", "-1", "1.1", "NaN"} {
		_, err := Parse([]string{"--access-log=stderr", "--access-log-sample=" + text}, nil)
		require.ErrorContains(t, err, "--access-log-sample must be above 0 and at most 1", text)
	}
}
