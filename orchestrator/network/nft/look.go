package nft

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// holds says whether the elements are those of the set.
func (s *Set) holds(elements []nftables.SetElement) bool {
	ids := make(map[string]int, len(elements))
	count := 0
	id := func(e nftables.SetElement) string {
		end := "-"
		if e.IntervalEnd {
			end = "+"
		}
		return string(e.Key) + end + string(e.KeyEnd) + end + string(e.Val)
	}
	for _, e := range s.Elements {
		for _, x := range s.wire(e) {
			if x.VerdictData != nil {
				x.Val = nil
			}
			ids[id(x)]++
			count++
		}
	}
	for _, e := range elements {
		if s.Type.Value == nftables.TypeVerdict {
			e.Val = nil
		}
		i := id(e)
		ids[i]--
		if ids[i] < 0 {
			return false
		}
	}
	return len(elements) == count
}

// ask sends one request of nftables.
func (w *Writer) ask(kind uint16, flags netlink.HeaderFlags, family byte, attributes []byte) ([]netlink.Message, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: w.netns})
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetReadBuffer(buffer)
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attributes...),
	})
}

// each calls f with the attributes of every answer.
func each(all []netlink.Message, f func(*netlink.AttributeDecoder)) error {
	for _, m := range all {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		f(ad)
		if err := ad.Err(); err != nil {
			return err
		}
	}
	return nil
}

// generation asks for the kernel's count of changes of this namespace, or 0.
func (w *Writer) generation() (gen uint32, err error) {
	all, err := w.ask(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil)
	if err != nil {
		return 0, err
	}
	return gen, each(all, func(ad *netlink.AttributeDecoder) {
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				gen = ad.Uint32()
			}
		}
	})
}

// rules are the handles of the rules of a chain, or of all chains, by chain.
func (w *Writer) rules(chain string) (map[string][]uint64, error) {
	want := []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(w.name + "\x00")}}
	if chain != "" {
		want = append(want, netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: []byte(chain + "\x00")})
	}
	attributes, err := netlink.MarshalAttributes(want)
	if err != nil {
		return nil, err
	}
	all, err := w.ask(unix.NFT_MSG_GETRULE, netlink.Dump, unix.NFPROTO_INET, attributes)
	if err != nil {
		return nil, err
	}
	handles := map[string][]uint64{}
	return handles, each(all, func(ad *netlink.AttributeDecoder) {
		var of string
		var handle uint64
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_CHAIN:
				of = ad.String()
			case unix.NFTA_RULE_HANDLE:
				handle = ad.Uint64()
			}
		}
		handles[of] = append(handles[of], handle)
	})
}
