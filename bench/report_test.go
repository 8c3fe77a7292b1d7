package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sample(rate float64) *Result {
	r := &Result{
		Workload: "range", Clients: 64, Ops: int64(4 * rate), Seconds: 4, Rate: rate, Series: []float64{rate / 2, rate, rate * 1.5, rate}, SeriesSeconds: 1,
		BenchCPUSeconds: 1.25, Servers: &Usage{CPUSeconds: 3, PeakBytes: 200 << 20},
		Latency: Latency{Mean: 2.5, P50: 2, P90: 5, P99: 9.5, P999: 20, Max: 31.25},
	}
	for i, q := range quantiles() {
		r.Latency.Spectrum = append(r.Latency.Spectrum, Quantile{q, 0.5 * float64(i+1)})
	}
	return r
}

func samples() ([]*Result, []*Versus) {
	bad := sample(100)
	bad.Workload, bad.Errors, bad.LastError, bad.NotBegun, bad.Interrupted = "put", 3, "a <reason> & more", 7, true
	none := &Result{Workload: "txn", Interrupted: true, Seconds: 0.5}
	v := &Versus{Workload: "range", Doc: "reads", Members: 3, Of: ofRate, A: []*Result{sample(3000), sample(2000)}, B: []*Result{sample(1000), sample(500)}}
	l := &Versus{Workload: "lease-expiry", Doc: "ends", Members: 1, Of: ofLatency, A: []*Result{sample(100)}, B: []*Result{sample(100)}}
	l.B[0].Latency.Mean = 250
	half := &Versus{Workload: "txn", Doc: "interrupted", Members: 1, Of: ofRate, A: []*Result{none}}
	all := []*Versus{v, l, half}
	for _, v := range all {
		v.compute()
	}
	return []*Result{sample(2000), bad, none}, all
}

var updateGolden = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *updateGolden {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "if this is as it should be: go test ./bench -run Golden -update")
}

func TestGolden(t *testing.T) {
	results, all := samples()
	for name, write := range map[string]func(io.Writer) error{
		"text.golden":     func(w io.Writer) error { return Text(w, results) },
		"markdown.golden": func(w io.Writer) error { return Markdown(w, all, "Keelson", "etcd") },
		"results.json":    func(w io.Writer) error { return JSON(w, results) },
		"versus.json":     func(w io.Writer) error { return JSON(w, all) },
		"results.html":    func(w io.Writer) error { return HTML(w, "A <title>", results) },
		"versus.html":     func(w io.Writer) error { return HTMLVersus(w, "Keelson and etcd", all, "Keelson", "etcd") },
		"versus-text.golden": func(w io.Writer) error {
			for _, v := range all {
				v.Say(w, "A", "B")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			require.NoError(t, write(&b))
			golden(t, name, b.Bytes())
			require.NotContains(t, b.String(), "NaN")
			require.NotContains(t, b.String(), "Inf")
		})
	}
}

// TestJSONRoundTrip checks that programs get what was measured.
func TestJSONRoundTrip(t *testing.T) {
	_, all := samples()
	var b bytes.Buffer
	require.NoError(t, JSON(&b, all))
	var back []*Versus
	require.NoError(t, json.Unmarshal(b.Bytes(), &back))
	require.Equal(t, all, back)
}

// TestPageStandsAlone checks that a page loads nothing, and that its pictures are well-formed.
func TestPageStandsAlone(t *testing.T) {
	_, all := samples()
	var b bytes.Buffer
	require.NoError(t, HTMLVersus(&b, "t", all, "A", "B"))
	require.NotRegexp(t, `(?i)https?:|<script|<link|src=|url\(`, b.String())
	svgs := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(b.String(), -1)
	require.Len(t, svgs, 2*len(all))
	for _, svg := range svgs {
		dec := xml.NewDecoder(strings.NewReader(svg))
		for {
			_, err := dec.Token()
			if err == io.EOF {
				break
			}
			require.NoError(t, err, svg)
		}
	}
}

func TestNiceStep(t *testing.T) {
	for top, want := range map[float64]float64{0: 1, 1: 0.2, 5: 1, 7: 2, 60: 10, 99: 20, 12345: 5000, 30000: 5000} {
		require.InEpsilon(t, want, niceStep(top), 1e-9, "%v", top)
	}
	require.Equal(t, "1.5M", short(1.5e6))
	require.Equal(t, "25k", short(25000))
	require.Equal(t, "0.01", short(0.01))
}
