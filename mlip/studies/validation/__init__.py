"""Study ``validation``: can a potential be trusted beyond the criteria of the loop?"""
