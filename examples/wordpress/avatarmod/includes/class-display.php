<?php
/**
 * Shows a picture once it is approved, and a default avatar of this site otherwise.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** Nothing is asked of Gravatar: no hash of an address leaves the site. */
final class Display {

	/** After every plugin that has a picture. */
	private const LAST = 9999;

	/** Answer the filters. */
	public static function hook(): void {
		add_filter( 'pre_get_avatar_data', array( self::class, 'data' ), self::LAST, 2 );
		add_filter( 'avatar_defaults', array( self::class, 'defaults' ), self::LAST );
		// The core's sentence sends people to Gravatar, whose picture would not be shown.
		add_filter( 'user_profile_picture_description', '__return_empty_string' );
	}

	/** For get_avatar_data(): the address is always ours, so that nobody else is asked. */
	public static function data( $args, $id_or_email ) {
		if ( Sources::$is_asking ) {
			return $args;
		}
		$user_id = self::user_of( $id_or_email );
		$said    = (string) ( $args['url'] ?? '' );
		$shown   = $user_id && empty( $args['force_default'] ) ? self::approved( $user_id, $said ) : null;

		$args['url']          = $shown ?? self::default_url();
		$args['found_avatar'] = null !== $shown;
		return $args;
	}

	/** What may be shown of somebody, in the size that another plugin offers; null for nothing. */
	public static function approved( int $user_id, string $said ): ?string {
		$record  = Record::of( $user_id );
		$picture = Sources::behind( $user_id, $said );
		if ( null === $picture ) {
			return null;
		}
		$is_known = $record->stamp === $picture->stamp();
		if ( ! $is_known ) {
			Sender::examine_later( $user_id );
		}
		$state    = $is_known ? $record->state : Record::UNSENT;
		$is_shown = 'approved' === $state
			|| ( Settings::keeps( $picture ) && ! in_array( $state, array( 'blocked', 'rejected' ), true ) );
		if ( ! $is_shown ) {
			return null;
		}
		return '' !== $said && in_array( Picture::name_of( $said ), $picture->files(), true ) ? $said : $picture->url;
	}

	/** Shown of everybody else. */
	public static function default_url(): string {
		/**
		 * The picture that is shown where none is approved.
		 *
		 * @param string $url Its address; keep it on this site.
		 */
		return (string) apply_filters( 'avatarmod_default_avatar', plugins_url( 'assets/default-avatar.svg', PLUGIN_FILE ) );
	}

	/** The list in Settings, Discussion would show pictures of Gravatar that are never used. */
	public static function defaults( array $defaults ): array {
		unset( $defaults['gravatar_default'] );
		return array( 'mystery' => __( 'The default avatar of this site', 'avatarmod' ) );
	}

	/** The user behind what get_avatar() takes; 0 for none. */
	public static function user_of( $id_or_email ): int {
		if ( is_numeric( $id_or_email ) ) {
			return max( 0, (int) $id_or_email );
		}
		if ( $id_or_email instanceof \WP_User ) {
			return $id_or_email->ID;
		}
		if ( $id_or_email instanceof \WP_Post ) {
			return (int) $id_or_email->post_author;
		}
		if ( $id_or_email instanceof \WP_Comment ) {
			return (int) $id_or_email->user_id;
		}
		$user = is_string( $id_or_email ) ? get_user_by( 'email', $id_or_email ) : false;
		return $user ? $user->ID : 0;
	}
}
