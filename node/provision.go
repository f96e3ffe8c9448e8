package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/peer"
)

// Machine is one that Provision makes a member.
type Machine struct {
	Config
	Addrs []netip.AddrPort // where it will be; none: nobody can tell, as behind a NAT
}

// Provision admits machines that have never run, on this member's word, and makes the state folder of each as it would be had the machine joined and
// been stopped: an identity, the mesh's state with all of them in it, an address book with this member and those of its own region. The mesh's own
// group decides, as for machines that are approved; this member has to be a coordinator. It is for simulations of meshes that would take too long to
// join one by one, and nothing in the local API leads here.
func (n *Node) Provision(ctx context.Context, machines []Machine) error {
	const what = "provision machines"
	m, err := n.membership(what)
	if err != nil {
		return err
	}
	ids := make([]identity.NodeID, len(machines))
	for i, x := range machines {
		if ids[i], err = m.enlist(ctx, x.Config); err != nil {
			return failed("cannot "+what, fmt.Errorf("%s: %w", x.Settings.Name, err))
		}
	}
	outfit, err := m.group.Outfit()
	if err != nil {
		return failed("cannot "+what, err)
	}
	for i, x := range machines {
		err := outfit.Equip(x.Disk, x.Settings.State)
		if err == nil {
			err = m.introduce(machines, ids, i)
		}
		if err != nil {
			return failed("cannot "+what, fmt.Errorf("%s: %w", x.Settings.Name, err))
		}
	}
	return nil
}

// enlist makes a machine's identity and has the mesh admit it.
func (m *membership) enlist(ctx context.Context, x Config) (identity.NodeID, error) {
	f, err := openFolder(x.Disk, x.Settings.State)
	if err != nil {
		return identity.NodeID{}, err
	}
	defer f.Close()
	key, err := f.loadIdentity(x.Rand)
	if err != nil {
		return identity.NodeID{}, err
	}
	request, err := invitation.SignRequest(key, invitation.Request{Mesh: m.group.State().Mesh.ID, Name: x.Settings.Name, Region: x.Settings.Region,
		Time: m.node.cfg.Now()})
	if err != nil {
		return identity.NodeID{}, err
	}
	return key.ID(), m.group.Approve(ctx, request)
}

// introduce writes the address book of the i-th machine.
func (m *membership) introduce(machines []Machine, ids []identity.NodeID, i int) error {
	n, x := m.node, machines[i]
	book, err := discovery.OpenBook(discovery.BookConfig{Path: (&folder{path: x.Settings.State}).file(bookFile), Disk: discovery.OSDisk{On: x.Disk}, Now: n.cfg.Now})
	if err != nil {
		return err
	}
	book.Note(n.ID(), addresses(peer.Record{Endpoints: m.reach.Endpoints()}), n.cfg.Now())
	for j, o := range machines {
		if j != i && o.Settings.Region == x.Settings.Region && len(o.Addrs) > 0 {
			book.Note(ids[j], o.Addrs, n.cfg.Now())
		}
	}
	return errors.Join(book.Flush(), book.Close())
}
