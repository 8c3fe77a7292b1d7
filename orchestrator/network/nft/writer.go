package nft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Writer keeps a table of a network namespace.
type Writer struct {
	name  string
	netns int

	mu      sync.Mutex
	written *Table              // nil: nothing is known to be there
	handles map[string][]uint64 // of the rules, by chain, as the kernel named them
	gen     uint32              // the kernel's count of changes when the table was last seen to be right
}

// NewWriter makes the writer of a table. netns is a file descriptor of the namespace, which stays the caller's; 0 is that of
// the calling thread.
func NewWriter(name string, netns int) *Writer { return &Writer{name: name, netns: netns} }

// chunk is how many elements go into one message: its length is a number of 16 bits.
const chunk = 300

// buffer is the size of the socket's buffers, in bytes. A transaction is one write.
const buffer = 32 << 20

func (w *Writer) conn() (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(w.netns), nftables.WithSockOptions(func(c *netlink.Conn) error {
		// Without the right to pass the system's bound, the bound it is: small changes fit.
		return errors.Join(ignore(c.SetWriteBuffer(buffer)), ignore(c.SetReadBuffer(buffer)))
	}))
}

func ignore(error) error { return nil }

// Sync makes the table as wanted.
func (w *Writer) Sync(want *Table) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written != nil {
		b, err := w.batch()
		if err != nil {
			return err
		}
		if err := b.diff(w.written, want); err != nil {
			return err
		}
		if b.empty {
			w.written = want
			return nil
		}
		if err = b.conn.Flush(); err == nil {
			w.wrote(want, b.changed)
			return nil
		}
		w.written = nil // somebody was at it: write all of it
	}
	return w.replace(want)
}

// ErrNothingWritten is the error of a Patch where no table is known to be there.
var ErrNothingWritten = errors.New("nft: there is no table to change")

// Patch changes what a patch names. It costs what it changes, however large the table is. The table that was given to Sync
// changes with it. After an error Sync is to write all of it.
func (w *Writer) Patch(p *Patch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written == nil {
		return ErrNothingWritten
	}
	b, err := w.batch()
	if err != nil {
		return err
	}
	was, want, err := p.sides(w.written)
	if err != nil {
		return err
	}
	if err := b.diff(was, want); err != nil {
		return err
	}
	p.Apply(w.written)
	if b.empty {
		return nil
	}
	if err = b.conn.Flush(); err == nil {
		w.wrote(w.written, b.changed)
		return nil
	}
	return w.replace(w.written) // somebody was at it
}

// replace writes the whole table. Packets see the old one or the new one. What packets have put into sets of the old one is
// kept, if it fits into the new one.
func (w *Writer) replace(want *Table) error {
	kept := w.learned(want)
	err := w.rewrite(want, kept)
	if err != nil && len(kept) > 0 {
		err = w.rewrite(want, nil)
	}
	if err != nil {
		w.written = nil
		return err
	}
	w.handles = nil
	w.wrote(want, nil)
	return nil
}

func (w *Writer) rewrite(want *Table, kept map[string][]nftables.SetElement) error {
	b, err := w.batch()
	if err != nil {
		return err
	}
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
	b.conn.AddTable(b.table)
	if err := b.diff(NewTable(w.name), want); err != nil {
		return err
	}
	for name, elements := range kept {
		if err := b.add(b.set(want, name), elements); err != nil {
			return fmt.Errorf("nft: elements of %s: %w", name, err)
		}
	}
	if err := b.conn.Flush(); err != nil {
		return fmt.Errorf("nft: table %s: %w", w.name, err)
	}
	return nil
}

// learned is what packets have put into sets, by set. Each element has the time that is left.
func (w *Writer) learned(want *Table) map[string][]nftables.SetElement {
	out := map[string][]nftables.SetElement{}
	for name, s := range want.Sets {
		if s.Type.learned == 0 {
			continue
		}
		b, err := w.batch()
		if err != nil {
			return nil
		}
		elements, err := b.conn.GetSetElements(s.kernel(b.table, name, 1))
		if err != nil { // there is no such set
			continue
		}
		for _, e := range elements {
			if e.Expires > 0 {
				out[name] = append(out[name], nftables.SetElement{Key: e.Key, Val: e.Val, Timeout: e.Expires})
			}
		}
	}
	return out
}

func (w *Writer) wrote(t *Table, changed map[string]bool) {
	w.written = t
	for chain := range changed {
		delete(w.handles, chain)
	}
	if w.gen != 0 {
		w.gen = w.follow(changed)
	}
}

// manyChains is up to how many changed chains are looked at one by one.
const manyChains = 64

// follow is the kernel's count of changes after this writer's own, if nobody else changed anything meanwhile, so that the
// whole table need not be looked at again; or 0. It learns the handles of the changed chains.
func (w *Writer) follow(changed map[string]bool) uint32 {
	if len(changed) > manyChains || w.handles == nil {
		return 0
	}
	for name := range changed {
		c := w.written.Chains[name]
		if c == nil {
			continue
		}
		seen, err := w.rules(name)
		if err != nil || len(seen[name]) != len(c.Rules) {
			return 0
		}
		w.handles[name] = seen[name]
	}
	if gen, err := w.generation(); err == nil && gen == w.gen+1 {
		return gen
	}
	return 0
}

// Remove deletes the table.
func (w *Writer) Remove() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.batch()
	if err != nil {
		return err
	}
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
	w.written, w.handles = nil, nil
	if err := b.conn.Flush(); err != nil {
		return fmt.Errorf("nft: delete the table %s: %w", w.name, err)
	}
	return nil
}

// Check repairs the table where it is not what was written, and says whether it had to.
func (w *Writer) Check() (repaired bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written == nil {
		return false, nil
	}
	gen, err := w.generation()
	if err == nil && gen != 0 && gen == w.gen {
		return false, nil
	}
	intact, err := w.intact()
	if err != nil {
		return false, fmt.Errorf("nft: look at the table %s: %w", w.name, err)
	}
	if intact {
		w.gen = gen
		return false, nil
	}
	return true, w.replace(w.written)
}

// intact compares the kernel's table with what was written.
func (w *Writer) intact() (bool, error) {
	b, err := w.batch()
	if err != nil {
		return false, err
	}
	if _, err := b.conn.ListTableOfFamily(w.name, nftables.TableFamilyINet); err != nil {
		return false, nil //nolint:nilerr // it is not there
	}
	if same, err := w.chainsIntact(b.conn); err != nil || !same {
		return false, err
	}
	sets, err := b.conn.GetSets(b.table)
	if err != nil || len(sets) != len(w.written.Sets) {
		return false, gone(err)
	}
	for _, s := range sets {
		want := w.written.Sets[s.Name]
		if want == nil {
			return false, nil
		}
		if want.Type.learned > 0 {
			continue
		}
		elements, err := b.conn.GetSetElements(want.kernel(b.table, s.Name, 1))
		if err != nil || !want.holds(elements) {
			return false, gone(err)
		}
	}
	return true, nil
}

// chainsIntact compares chains and their rules, and keeps the rules' handles.
func (w *Writer) chainsIntact(conn *nftables.Conn) (bool, error) {
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, err
	}
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != w.name })
	if len(chains) != len(w.written.Chains) {
		return false, nil
	}
	handles, err := w.rules("")
	if err != nil {
		return false, gone(err)
	}
	for _, c := range chains {
		want := w.written.Chains[c.Name]
		if want == nil || (want.Base != nil) != (c.Hooknum != nil) || len(handles[c.Name]) != len(want.Rules) {
			return false, nil
		}
		if seen, ok := w.handles[c.Name]; ok && !slices.Equal(seen, handles[c.Name]) {
			return false, nil
		}
	}
	w.handles = handles
	return true, nil
}

// gone takes the error of an object that was deleted for what it says.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// batch is a transaction in the making.
type batch struct {
	conn    *nftables.Conn
	table   *nftables.Table
	empty   bool
	changed map[string]bool // chains whose rules changed
	ids     uint32
}

func (w *Writer) batch() (*batch, error) {
	c, err := w.conn()
	if err != nil {
		return nil, fmt.Errorf("nft: %w", err)
	}
	return &batch{conn: c, table: &nftables.Table{Name: w.name, Family: nftables.TableFamilyINet}, empty: true, changed: map[string]bool{}}, nil
}

// diff adds what turns one table into another. Order matters to the kernel: what is referred to comes first and goes last.
func (b *batch) diff(was, want *Table) error {
	for _, name := range slices.Sorted(maps.Keys(want.Sets)) {
		if was.Sets[name] == nil {
			if err := b.conn.AddSet(b.set(want, name), nil); err != nil {
				return fmt.Errorf("nft: set %s: %w", name, err)
			}
			b.empty = false
		} else if was.Sets[name].Type.Key.Name != want.Sets[name].Type.Key.Name || was.Sets[name].Type.Ranges != want.Sets[name].Type.Ranges {
			return fmt.Errorf("nft: set %s changes its type", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Chains)) {
		if was.Chains[name] == nil {
			b.conn.AddChain(b.chain(name, want.Chains[name]))
			b.empty = false
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Chains)) {
		b.rules(name, was.Chains[name], want.Chains[name])
	}
	for _, name := range slices.Sorted(maps.Keys(want.Sets)) {
		old := was.Sets[name]
		if old == nil {
			old = &Set{}
		}
		if err := b.elements(b.set(want, name), old, want.Sets[name]); err != nil {
			return fmt.Errorf("nft: elements of %s: %w", name, err)
		}
	}
	return b.remove(was, want)
}

// remove deletes what is wanted no more: first whatever refers to other things.
func (b *batch) remove(was, want *Table) error {
	var sets, chains []string
	for name, s := range was.Sets {
		if want.Sets[name] == nil {
			sets = append(sets, name)
			if err := b.elements(b.set(was, name), s, &Set{Type: s.Type}); err != nil {
				return fmt.Errorf("nft: elements of %s: %w", name, err)
			}
		}
	}
	for name, c := range was.Chains {
		if want.Chains[name] == nil {
			chains = append(chains, name)
			b.conn.FlushChain(b.chain(name, c))
			b.changed[name] = true
		}
	}
	for _, name := range slices.Sorted(slices.Values(chains)) {
		b.conn.DelChain(b.chain(name, was.Chains[name]))
	}
	for _, name := range slices.Sorted(slices.Values(sets)) {
		b.conn.DelSet(b.set(was, name))
	}
	b.empty = b.empty && len(sets) == 0 && len(chains) == 0
	return nil
}

func (b *batch) set(t *Table, name string) *nftables.Set {
	b.ids++
	return t.Sets[name].kernel(b.table, name, b.ids)
}

func (b *batch) chain(name string, c *Chain) *nftables.Chain {
	k := &nftables.Chain{Name: name, Table: b.table}
	if c.Base != nil {
		k.Type, k.Hooknum, k.Priority = c.Base.Type, c.Base.Hook, &c.Base.Priority
	}
	return k
}

// rules writes all rules of a chain where any changed.
func (b *batch) rules(name string, was, want *Chain) {
	if was == want || was != nil && slices.EqualFunc(was.Rules, want.Rules, func(x, y Rule) bool { return x.String() == y.String() }) {
		return
	}
	c := b.chain(name, want)
	if was != nil {
		b.conn.FlushChain(c)
	}
	for _, r := range want.Rules {
		b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: r.exprs()})
	}
	b.changed[name], b.empty = true, false
}

// elements deletes and adds what differs.
func (b *batch) elements(s *nftables.Set, was, want *Set) error {
	if was == want {
		return nil
	}
	var del, add []nftables.SetElement
	gone, come := difference(was, want)
	for _, e := range gone {
		del = append(del, was.wire(Element{Key: e.Key, Last: e.Last})...)
	}
	for _, e := range come {
		add = append(add, want.wire(e)...)
	}
	b.empty = b.empty && len(del) == 0 && len(add) == 0
	for part := range slices.Chunk(del, chunk) {
		if err := b.conn.SetDeleteElements(s, part); err != nil {
			return err
		}
	}
	return b.add(s, add)
}

func (b *batch) add(s *nftables.Set, elements []nftables.SetElement) error {
	for part := range slices.Chunk(elements, chunk) {
		if err := b.conn.SetAddElements(s, part); err != nil {
			return err
		}
	}
	return nil
}

// difference is what turns the elements of one set into those of another.
func difference(was, want *Set) (del, add []Element) {
	if want.follows(was) {
		return want.delta.del, want.delta.add
	}
	for id, e := range was.Elements {
		if x, ok := want.Elements[id]; !ok || !x.same(e) {
			del = append(del, e)
		}
	}
	for id, e := range want.Elements {
		if x, ok := was.Elements[id]; !ok || !x.same(e) {
			add = append(add, e)
		}
	}
	return del, add
}
