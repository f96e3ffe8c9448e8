package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
)

func (a *app) invitationsVerb() *cobra.Command {
	var cancel string
	cmd := &cobra.Command{
		Use:   "invitations",
		Short: "list or cancel invitations",
		Args:  noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("cancel") && cancel == "" {
				return wrongUsage("--cancel needs the ID of an invitation")
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			if cancel != "" {
				return a.cancelInvitation(cmd, c, cancel)
			}
			l, err := c.Invitations(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(l)
			}
			if len(l.Invitations) == 0 {
				fmt.Fprintln(a.stdout, "no invitations")
				return nil
			}
			t := a.newTable("ID", "STATE", "USED", "EXPIRES", "NAME", "TAGS", "BY")
			for _, i := range l.Invitations {
				t.add(i.ID, word(i.State), fmt.Sprintf("%d of %d", i.Used, i.Uses), minute(i.Expires), i.Name, strings.Join(i.Tags, " "), shortID(i.By))
			}
			t.print(a.stdout)
			return nil
		}),
	}
	cmd.Flags().StringVar(&cancel, "cancel", "", "make the invitation with this `ID` useless")
	return a.jsonFlag(cmd)
}

func (a *app) cancelInvitation(cmd *cobra.Command, c *api.Client, id string) error {
	if err := c.CancelInvitation(cmd.Context(), id); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]string{"cancelled": id})
	}
	fmt.Fprintf(a.stdout, "invitation %s is cancelled\n", printable(id))
	return nil
}

// minute and day show a time to people, in their zone.
func minute(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04")
}

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02")
}
