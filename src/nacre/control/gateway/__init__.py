"""Where agents connect: their links, what they are told and what they report. No rules of its own."""
