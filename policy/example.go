package policy

// Example is a commented policy to start from.
const Example = `# Who may open connections to whom, inside the mesh. What no rule allows is denied; answers to what is allowed pass.
# Try it with:  phantom policy check FILE      Put it in force with:  phantom policy set FILE
# Take it back: phantom policy rollback
#
# from, to: tag:NAME, node:NAME, region:NAME, overlay addresses (10.86.1.0/24), or "*" for every member.
# allow:    tcp/22, tcp/8000-8100, udp/53, tcp (all ports), icmp (ping), or "*" for everything.
rules:
  # Everybody may ping everybody.
  - from: "*"
    to: "*"
    allow: [icmp]

  # Admins reach every machine by SSH.
  - from: [tag:admin]
    to: "*"
    allow: [tcp/22]

  # Laptops use what the servers offer.
  - from: [tag:laptop]
    to: [tag:server]
    allow: [tcp/80, tcp/443, tcp/8000-8100, udp/53]

# Tests that travel with the policy: one that does not hold keeps the policy from being set. Names of nodes, or selectors as above.
expect: []
#  - laptop-1 -> nas:443 allow
#  - laptop-1 -> nas tcp/22 deny
#  - tag:laptop -> tag:laptop tcp/445 deny
`
