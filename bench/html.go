package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

//go:embed page.html
var pageSource string

// htmlPage is what page.html shows.
type htmlPage struct {
	Title    string
	Sides    []string // names of the clusters; one empty name for results of one
	Versus   bool
	Sections []htmlSection
}

// htmlSection is one workload.
type htmlSection struct {
	Name, Doc, Ratio string
	Rows             []htmlRow
	Charts           []chart
}

type htmlRow struct {
	*Result
	Side   string
	Notes  []string
	Per1k  string
	PeakMB int64
}

// HTML writes results as a page that needs nothing else, with charts.
func HTML(w io.Writer, title string, results []*Result) error {
	p := htmlPage{Title: title, Sides: []string{""}}
	for _, r := range results {
		p.add(htmlSection{Name: r.Workload}, r)
	}
	return p.write(w)
}

// HTMLVersus is HTML for comparisons. a and b name the two clusters. Of each side the run with the median rate is shown.
func HTMLVersus(w io.Writer, title string, all []*Versus, a, b string) error {
	p := htmlPage{Title: title, Sides: []string{a, b}, Versus: true}
	for _, v := range all {
		s := htmlSection{Name: v.Workload, Doc: v.Doc, Ratio: v.ratio()}
		if v.Members > 0 {
			s.Name = fmt.Sprintf("%s, members: %d", v.Workload, v.Members)
		}
		p.add(s, typical(v.A), typical(v.B))
	}
	return p.write(w)
}

func (p *htmlPage) add(s htmlSection, results ...*Result) {
	for i, r := range results {
		row := htmlRow{Result: r, Side: p.Sides[i], Notes: notes(r), Per1k: perThousand(r)}
		if r.Servers != nil {
			row.PeakMB = r.Servers.PeakBytes >> 20
		}
		s.Rows = append(s.Rows, row)
	}
	s.Charts = []chart{throughputChart(results), latencyChart(results)}
	p.Sections = append(p.Sections, s)
}

func (p *htmlPage) write(w io.Writer) error {
	t, err := template.New("page").Parse(pageSource)
	if err != nil {
		return err
	}
	return t.Execute(w, p)
}
