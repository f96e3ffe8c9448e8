package main

import (
	"fmt"
	"time"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/config"
)

func (a *app) inviteVerb() *cobra.Command {
	r := api.InviteRequest{Uses: 1, Expires: 24 * time.Hour}
	var tags []string
	var qr bool
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "print a token that lets a machine in",
		Long: "Prints an invitation token on stdout. Whoever has the token may join until it is used up or expires:\n" +
			"send it the way you would send a password.",
		Args: noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			r.Tags = tags
			if err := checkInvite(r); err != nil {
				return err
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			i, err := c.Invite(cmd.Context(), r)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(i)
			}
			fmt.Fprintln(a.stdout, i.Token)
			if qr {
				qrterminal.GenerateHalfBlock(i.Token, qrterminal.L, a.stdout)
			}
			uses := "one machine"
			if i.Uses != 1 {
				uses = fmt.Sprintf("%d machines", i.Uses)
			}
			fmt.Fprintf(a.stderr, "# for %s, until %s; cancel it with: phantom invitations --cancel %s\n", uses, minute(i.Expires), i.ID)
			fmt.Fprintf(a.stderr, "# on the other machine: phantom join TOKEN\n")
			return nil
		}),
	}
	f := cmd.Flags()
	f.IntVar(&r.Uses, "uses", r.Uses, "how many machines may join with it")
	f.DurationVar(&r.Expires, "expires", r.Expires, "how long it is good for")
	f.StringArrayVar(&tags, "tag", nil, "tag of who joins with it; may be repeated")
	f.StringVar(&r.Name, "name", "", "name of who joins with it (default: what the machine calls itself)")
	f.BoolVar(&qr, "qr", false, "print it as a QR code too")
	return a.jsonFlag(cmd)
}

// Bounds of an invitation: the ledger keeps it until it expires, and whoever finds it may use it.
const (
	invitationUsesMax = 10000
	invitationLifeMax = 365 * 24 * time.Hour
	invitationTagsMax = 32
)

func checkInvite(r api.InviteRequest) error {
	switch {
	case r.Uses < 1 || r.Uses > invitationUsesMax:
		return wrongUsage("--uses is a number from 1 to %d", invitationUsesMax)
	case r.Expires < time.Second || r.Expires > invitationLifeMax:
		return wrongUsage("--expires is a time from 1s to 8760h, such as 24h")
	case r.Name != "" && r.Uses != 1:
		return wrongUsage("--name is for one machine, --uses %d for several", r.Uses)
	case len(r.Tags) > invitationTagsMax:
		return wrongUsage("%d tags are too many, %d at most", len(r.Tags), invitationTagsMax)
	}
	if r.Name != "" {
		if err := config.CheckLabel(r.Name); err != nil {
			return wrongUsage("bad --name %q: %v", r.Name, err)
		}
	}
	for _, t := range r.Tags {
		if err := config.CheckLabel(t); err != nil {
			return wrongUsage("bad --tag %q: %v", t, err)
		}
	}
	return nil
}
