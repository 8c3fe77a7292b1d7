package nft

import "fmt"

// Patch is a change of a table: chains and elements of its sets that come, are replaced or go. The sets themselves stay.
type Patch struct {
	Chains   map[string]*Chain              // nil: it goes
	Elements map[string]map[string]*Element // by set and ID; nil: it goes
}

// Chain replaces a chain; nil deletes it.
func (p *Patch) Chain(name string, c *Chain) {
	if p.Chains == nil {
		p.Chains = map[string]*Chain{}
	}
	p.Chains[name] = c
}

// Element replaces an element of a set; nil deletes it.
func (p *Patch) Element(set, id string, e *Element) {
	if p.Elements == nil {
		p.Elements = map[string]map[string]*Element{}
	}
	if p.Elements[set] == nil {
		p.Elements[set] = map[string]*Element{}
	}
	p.Elements[set][id] = e
}

// Empty says whether nothing is changed.
func (p *Patch) Empty() bool { return len(p.Chains) == 0 && len(p.Elements) == 0 }

// Apply changes a table.
func (p *Patch) Apply(t *Table) {
	for name, c := range p.Chains {
		if c == nil {
			delete(t.Chains, name)
		} else {
			t.Chains[name] = c
		}
	}
	for name, elements := range p.Elements {
		for id, e := range elements {
			if e == nil {
				delete(t.Sets[name].Elements, id)
			} else {
				t.Sets[name].Elements[id] = *e
			}
		}
	}
}

// sides are what the patch changes, before and after.
func (p *Patch) sides(t *Table) (was, want *Table, err error) {
	was, want = NewTable(t.Name), NewTable(t.Name)
	for name, c := range p.Chains {
		if old := t.Chains[name]; old != nil {
			was.Chains[name] = old
		}
		if c != nil {
			want.Chains[name] = c
		}
	}
	for name, elements := range p.Elements {
		s := t.Sets[name]
		if s == nil {
			return nil, nil, fmt.Errorf("nft: a patch of the set %s, which table %s has not", name, t.Name)
		}
		before, after := map[string]Element{}, map[string]Element{}
		for id, e := range elements {
			if old, ok := s.Elements[id]; ok {
				before[id] = old
			}
			if e != nil {
				after[id] = *e
			}
		}
		was.Sets[name], want.Sets[name] = &Set{Type: s.Type, Elements: before}, &Set{Type: s.Type, Elements: after}
	}
	return was, want, nil
}
