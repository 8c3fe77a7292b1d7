//go:build linux

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// dig asks the first server of the resolver's file, and prints what it answers: TYPE NAME. A record is a line, as "A 192.0.2.1".
// The name is complete; for PTR an address will do. It is a failure if there is no such name.
func dig(args []string) error {
	if len(args) != 2 {
		return errors.New("want a type and a name")
	}
	config, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	kind, known := dns.StringToType[args[0]]
	if !known || len(config.Servers) == 0 {
		return errors.New("there is no such type, or no server")
	}
	name := dns.Fqdn(args[1])
	if kind == dns.TypePTR {
		if reverse, err := dns.ReverseAddr(args[1]); err == nil {
			name = reverse
		}
	}
	var client dns.Client
	answer, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, kind), config.Servers[0]+":"+config.Port)
	if err != nil {
		return err
	}
	for _, r := range answer.Answer {
		fmt.Println(dns.TypeToString[r.Header().Rrtype], strings.TrimPrefix(r.String(), r.Header().String()))
	}
	if answer.Rcode != dns.RcodeSuccess {
		return errors.New(dns.RcodeToString[answer.Rcode])
	}
	return nil
}
